"""Sources of `xec daq`: files, runs that are being written, replays, and MIDAS's live buffer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import random_events
from support_daq import events_of, midas_file, root_file
from support_midas import old, put, small_run, write_banks
from xec.conditions.dead_list import DeadList
from xec.detector.channels import N_CHANNELS
from xec.errors import FileError, ServiceError, UsageError
from xec.io.midas.compression import Compression
from xec.io.midas.event import Bank
from xec.io.midas.layout import BankType
from xec.io.midas.readings import BankName, ReadingBanks
from xec.io.midas.writer import Label, MidasStream
from xec.io.root_writer import RootEventWriter
from xec_client.daq.intake import Intake
from xec_client.daq.live import LiveSource
from xec_client.daq.payload import Parcel, Unreadable, pack, unpack
from xec_client.daq.source import MidasSource, Replay, RootSource, Sample, Source, file_source
from xec_client.daq.spool import EventId, Spool, SpoolSettings
from xec_client.daq.spool.seen import SeenIds


def never() -> bool:
    return False


def assert_same_event(found: Parcel, expected: Any) -> None:
    for name in ("npho", "npho_valid", "time_valid"):
        np.testing.assert_array_equal(getattr(found.event, name), getattr(expected, name))
    np.testing.assert_allclose(found.event.time, expected.time, rtol=1e-6)


def readings(serial: int, kind: BankType = BankType.FLOAT, count: int = N_CHANNELS) -> list[Bank]:
    values = np.full(count, 100.0 + serial)
    return [Bank.of("XNPH", kind, values), Bank.of("XTIM", BankType.FLOAT, values * 1e-9)]


# --- payloads ----------------------------------------------------------------------------------


def test_payloads_lose_nothing() -> None:
    for event in random_events(3):
        for dead in (None, DeadList.of(()), DeadList.of([4, 4759])):
            for synthetic in (False, True):
                found = unpack(pack(Parcel(event, dead, synthetic)))
                assert (found.event.run, found.event.event) == (event.run, event.event)
                assert (found.dead, found.synthetic) == (dead, synthetic)
                np.testing.assert_array_equal(found.event.time, event.time)
                assert_same_event(found, event)


@pytest.mark.parametrize("payload", [b"", b"M", b"M\xff\xff", b"Zabc", b"S\x0a\x02\x08\x01"])
def test_payloads_that_are_none(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        unpack(payload)


# --- files -------------------------------------------------------------------------------------


def test_root_files_tell_their_dead_list(tmp_path: Path) -> None:
    batch = events_of(5, 4)
    path = tmp_path / "in.root"
    dead = DeadList.of([7, 8])
    with RootEventWriter(path, geometry_hash="9" * 64, synthetic=True) as writer:
        writer.write(batch, dead.mask)
    source = file_source(path)
    assert isinstance(source, RootSource)
    assert source.geometry_hash == "9" * 64
    found = list(source.samples(never))
    assert [sample.id for sample in found] == [EventId(5, event) for event in range(4)]
    parcel = unpack(found[1].payload)
    assert parcel.dead == dead
    assert parcel.synthetic
    assert not parcel.event.npho_valid[7]


def test_midas_files_give_what_was_written(tmp_path: Path) -> None:
    # Times of sensors with little light are none by the reader's rule.
    batch = events_of(407, 5)
    source = MidasSource(midas_file(tmp_path / "run00407.mid.lz4", batch))
    found = list(source.samples(never))
    assert [sample.id for sample in found] == [EventId(407, event) for event in range(5)]
    assert source.geometry_hash == "9" * 64
    for sample, event in zip(found, batch, strict=True):
        parcel = unpack(sample.payload)
        assert parcel.synthetic
        np.testing.assert_array_equal(parcel.event.npho, event.npho)


def test_an_event_with_a_wrong_bank_is_kept_as_unreadable(tmp_path: Path) -> None:
    events = [readings(0), readings(1, BankType.INT), readings(2, count=3), readings(3)]
    source = MidasSource(old(write_banks(tmp_path / "run00407.mid", events)))
    found = list(source.samples(never))
    assert [sample.id.event for sample in found] == [0, 1, 2, 3]
    with pytest.raises(Unreadable, match="bank XNPH is of type INT, not FLOAT"):
        unpack(found[1].payload)
    with pytest.raises(Unreadable, match="holds 3 values, not 4760"):
        unpack(found[2].payload)
    assert unpack(found[3].payload).event.npho[0] == 103
    assert "2 events could not be read" in " ".join(source.notes)


@pytest.mark.parametrize(
    ("events", "banks", "words"),
    [
        ([readings(0, BankType.INT)], ReadingBanks(), "none of its 1 events can be read"),
        ([readings(0)], ReadingBanks(npho=BankName("ABCD"), time=BankName("EFGH")), "--npho-bank"),
        ([readings(0)], ReadingBanks(event_id=5), r"ids 1"),
    ],
)
def test_a_run_without_any_reading_is_refused(
    tmp_path: Path, events: list[list[Bank]], banks: ReadingBanks, words: str
) -> None:
    source = MidasSource(old(write_banks(tmp_path / "run00407.mid", events)), banks)
    with pytest.raises(FileError, match=words):
        list(source.samples(never))


def test_a_cut_tail_is_noted_after_the_events_before_it(tmp_path: Path) -> None:
    whole = write_banks(tmp_path / "run00407.mid", [readings(0), readings(1)]).read_bytes()
    source = MidasSource(put(tmp_path / "run00408.mid", whole[:-20_000]))
    assert [sample.id.event for sample in source.samples(never)] == [0]
    assert "is cut within an event" in " ".join(source.notes)


def test_a_file_that_is_being_written_is_refused_unless_followed(tmp_path: Path) -> None:
    path = tmp_path / "run00407.mid"
    with path.open("wb") as file:
        stream = MidasStream(file, 407, Compression.NONE)
        stream.begin_of_run(b"{}")
        stream.event(Label(1), readings(1))
        file.flush()
        source = MidasSource(path)
        found: list[Sample] = []
        with pytest.raises(FileError, match=r"still being written.*--follow"):
            found.extend(source.samples(never))

        def write_on() -> None:
            time.sleep(0.1)
            stream.event(Label(2), readings(2))
            stream.end_of_run(b"{}")
            file.flush()

        writer = threading.Thread(target=write_on)
        writer.start()
        followed = [sample.id.event for sample in MidasSource(path, patience=20).samples(never)]
        writer.join()
    assert followed == [1, 2]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        file_source(tmp_path / "no.root")
    for path in (tmp_path / "run1.mid", put(tmp_path / "run2.mid", b"no such thing")):
        with pytest.raises(FileError, match=path.name):
            list(file_source(path).samples(never))
    with pytest.raises(FileError, match="none of its 4 events"):
        list(file_source(put(tmp_path / "run3.mid", small_run())).samples(never))


# --- replay ------------------------------------------------------------------------------------


class Endless:
    """Many small events."""

    name, patient, notes, geometry_hash = "many", True, (), None

    def samples(self, stopped: Any) -> Iterator[Sample]:
        for event in range(10**9):
            if stopped():
                return
            yield Sample(EventId(1, event), b"x")


def test_arrivals_are_those_of_a_poisson_process(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("xec_client.daq.source.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(
        "xec_client.daq.source.time.sleep", lambda s: clock.__setitem__(0, clock[0] + s)
    )
    samples = Replay(Endless(), 100.0, seed=1).samples(never)
    times = []
    for _ in range(4000):
        next(samples)
        times.append(clock[0])
    waits = np.diff(times)
    # Mean and standard deviation of an exponential distribution are equal: 1 / rate.
    assert waits.mean() == pytest.approx(0.01, rel=0.05)
    assert waits.std() == pytest.approx(0.01, rel=0.1)
    assert np.mean(waits > 0.01) == pytest.approx(np.exp(-1), abs=0.03)


def test_a_replay_waits_for_nobody_and_stops_when_told() -> None:
    source: Source = Replay(Endless(), 0.001)
    assert not source.patient
    begin = time.monotonic()
    assert list(source.samples(lambda: time.monotonic() > begin + 0.2)) == []
    for rate in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="positive number of events per second"):
            Replay(Endless(), rate)


# --- intake ------------------------------------------------------------------------------------


def test_what_is_known_is_not_offered_again(tmp_path: Path) -> None:
    path = root_file(tmp_path / "in.root", events_of(5, 10))
    known = SeenIds(EventId(5, event) for event in (2, 3))
    with Spool(tmp_path / "spool", SpoolSettings(handover=tmp_path)) as spool:
        intake = Intake(file_source(path), spool, known)
        intake.start()
        while not intake.is_done:
            time.sleep(0.005)
        assert intake.error is None
        assert intake.repeated == 2
        assert spool.accounting().offered == 8


def test_a_file_waits_for_room_and_a_detector_does_not(tmp_path: Path) -> None:
    for number, (patient, full) in enumerate(((True, False), (False, True))):
        source = Endless()
        source.patient = patient  # type: ignore[misc]
        # A disk that takes nothing any more.
        settings = SpoolSettings(
            max_bytes=4096, segment_bytes=1024, memory_events=300, handover=tmp_path
        )
        with Spool(tmp_path / f"spool{number}", settings) as spool:
            intake = Intake(source, spool, SeenIds())
            intake.start()
            time.sleep(0.4)
            assert intake.stop(5)
            assert (sum(spool.accounting().gaps.values()) > 0) == full
            assert spool.accounting().unaccounted == 0


# --- live --------------------------------------------------------------------------------------


class FakeMidas:
    """Stands for MIDAS's own module, which is on no package index: buffer, database, errors."""

    class MidasError(Exception):
        pass

    GET_ALL, GET_NONBLOCKING, GET_RECENT = 1, 2, 4

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.odb = {"/Runinfo/Run number": 407, "/Runinfo/Start time binary": 1000}
        self.requests: list[dict[str, Any]] = []
        self.asynchronous: list[bool] = []
        self.refuse = 0
        self.clients = 0

    def MidasClient(self, name: str) -> FakeMidas:  # noqa: N802
        if self.refuse:
            self.refuse -= 1
            raise self.MidasError("no experiment")
        self.clients += 1
        return self

    def open_event_buffer(self, buffer: str) -> int:
        return 3

    def register_event_request(self, handle: int, **wanted: Any) -> int:
        self.requests.append(wanted)
        return 1

    def receive_event(self, handle: int, async_flag: bool) -> Any:
        self.asynchronous.append(async_flag)
        event = self.events.pop(0) if self.events else None
        if isinstance(event, Exception):
            raise event
        if callable(event):
            return event()
        return event

    def communicate(self, timeout: int) -> None: ...

    def odb_get(self, path: str) -> Any:
        return self.odb[path]

    def disconnect(self) -> None: ...


def live_event(serial: int, moment: int = 1001, kind: int = 9, event_id: int = 1) -> Any:
    header = SimpleNamespace(
        event_id=event_id, trigger_mask=0, serial_number=serial, timestamp=moment
    )
    values = tuple([100.0 + serial] * N_CHANNELS)
    times = tuple([1e-9] * N_CHANNELS)
    banks = {
        "XNPH": SimpleNamespace(type=kind, data=values),
        "XTIM": SimpleNamespace(type=9, data=times),
        "OTHR": SimpleNamespace(type=4, data=(1, 2)),
    }
    return SimpleNamespace(header=header, banks=banks)


def live(fake: FakeMidas) -> tuple[LiveSource, list[Sample]]:
    source = LiveSource("SYSTEM", modules=(fake, fake))
    return source, list(source.samples(lambda: not fake.events))


def test_a_live_buffer_is_sampled_without_blocking() -> None:
    fake = FakeMidas([live_event(1), None, live_event(2), live_event(3, kind=12), None])
    source, found = live(fake)
    assert [request["sampling_type"] for request in fake.requests] == [fake.GET_NONBLOCKING]
    assert set(fake.asynchronous) == {True}
    assert [sample.id for sample in found] == [EventId(407, serial) for serial in (1, 2, 3)]
    parcel = unpack(found[0].payload)
    assert (parcel.event.npho[5], parcel.synthetic) == (101, False)
    assert parcel.event.time[5] == pytest.approx(1.0)
    with pytest.raises(Unreadable, match="XNPH"):
        unpack(found[2].payload)
    assert not source.patient


def test_events_that_waited_while_a_run_began_belong_to_the_run_before() -> None:
    fake = FakeMidas([])

    def begins() -> None:
        fake.odb = {"/Runinfo/Run number": 408, "/Runinfo/Start time binary": 2000}

    begin = live_event(0, event_id=0x8000)
    fake.events = [live_event(1, 999), live_event(2), begins, live_event(3), begin]
    fake.events += [live_event(1, 2001), live_event(4, 1999), None]
    source, found = live(fake)
    ids = [EventId(407, 2), EventId(407, 3), EventId(408, 1), EventId(407, 4)]
    assert [sample.id for sample in found] == ids
    assert "1 events of a run before" in " ".join(source.notes)


def test_a_lost_connection_is_made_anew_but_the_first_one_must_be() -> None:
    fake = FakeMidas([live_event(1), FakeMidas.MidasError("gone"), live_event(2), None])
    _, found = live(fake)
    assert [sample.id.event for sample in found] == [1, 2]
    assert fake.clients == 2
    fake = FakeMidas([None])
    fake.refuse = 1
    with pytest.raises(ServiceError, match="MIDAS buffer SYSTEM cannot be opened: no experiment"):
        live(fake)


def test_without_the_module_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "midas", None)
    with pytest.raises(UsageError, match=r"MIDASSYS/python.*--follow"):
        LiveSource()
