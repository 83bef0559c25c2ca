"""From MIDAS banks to events: values, units, markers, and what is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from io_samples import random_events, write_events
from support_midas import begin_of_run, end_of_run, event_bytes, old, put, small_run, write_banks
from xec.detector.channels import N_CHANNELS
from xec.errors import FileError, UsageError
from xec.event import EventBatch
from xec.io.events import open_event_writer, open_events
from xec.io.midas.event import Bank
from xec.io.midas.event_file import MidasEventFile
from xec.io.midas.event_writer import MidasEventWriter
from xec.io.midas.label import RunLabel, label_dump, label_of
from xec.io.midas.layout import BankKind, BankType, ByteOrder
from xec.io.midas.readings import DEFAULT_BANKS, BankName, ReadingBanks
from xec.io.midas.writer import Label, Layout, MidasWriter

FLOAT = BankType.FLOAT


def readings(npho: object, time: object) -> list[Bank]:
    return [
        Bank.of("XNPH", FLOAT, np.broadcast_to(npho, N_CHANNELS)),
        Bank.of("XTIM", FLOAT, np.broadcast_to(time, N_CHANNELS)),
    ]


def batches(path: Path, size: int = 256, banks: ReadingBanks = DEFAULT_BANKS) -> list[EventBatch]:
    with MidasEventFile(path, banks) as file:
        return [chunk.events for chunk in file.chunks(size)]


def same(first: EventBatch, second: EventBatch, rtol: float = 0.0) -> None:
    """`rtol` of the times: seconds as float32 round them once more."""
    for name in ("run", "event", "npho", "npho_valid", "time_valid"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    np.testing.assert_allclose(first.time, second.time, rtol=rtol, atol=0)


def test_values_markers_and_units_by_hand(tmp_path: Path) -> None:
    npho, time = np.full(N_CHANNELS, 200.0), np.full(N_CHANNELS, 3e-8)
    npho[:6] = [150.5, 1e10, np.nan, -999, -0.5, 99.0]
    time[6:9] = [1e10, np.nan, -2e-9]
    path = write_banks(tmp_path / "run1.mid", [readings(npho, time)])
    (batch,) = batches(old(path))
    assert (batch.run.tolist(), batch.event.tolist()) == ([407], [0])
    assert batch.npho[0, :6].tolist() == [150.5, 0, 0, 0, -0.5, 99.0]
    assert batch.npho_valid[0, :7].tolist() == [True, False, False, False, True, True, True]
    # No time without a count, nor with too little light, nor where it is a marker.
    valid = [True, False, False, False, False, False, False, False, True]
    assert batch.time_valid[0, :9].tolist() == valid
    np.testing.assert_allclose(batch.time[0, [0, 8]], [30.0, -2.0], rtol=1e-6)
    assert (batch.time[~batch.time_valid] == 0).all()


@pytest.mark.parametrize("suffix", [".mid", ".mid.lz4", ".mid.gz", ".mid.bz2"])
def test_the_same_events_as_from_a_root_file(suffix: str, tmp_path: Path) -> None:
    events = random_events(9, truth=False)
    root, midas = tmp_path / "a.root", tmp_path / f"a{suffix}"
    write_events(root, events, synthetic=False)
    with open_event_writer(midas, run=7, geometry_hash="geometry", synthetic=False) as writer:
        writer.write(events)
    with open_events(root) as one, open_events(midas) as other:
        (first,), (second,) = one.chunks(100), other.chunks(100)
        assert (one.geometry_hash, one.synthetic) == (other.geometry_hash, other.synthetic)
        assert one.notes == other.notes == ()
    same(first.events, second.events)
    assert second.dead is None


@pytest.mark.parametrize("kind", [FLOAT, BankType.DOUBLE], ids=["float", "double"])
@pytest.mark.parametrize("layout", [Layout(k, o) for k in BankKind for o in ByteOrder], ids=str)
def test_round_trip_with_other_banks(layout: Layout, kind: BankType, tmp_path: Path) -> None:
    events = random_events(5, truth=False)
    banks = ReadingBanks(BankName("Q123", kind), BankName("T123", kind), 1.0, event_id=12)
    path = tmp_path / "run00007.mid"
    with MidasEventWriter(
        path, run=7, geometry_hash="g", synthetic=True, banks=banks, layout=layout
    ) as writer:
        writer.write(events)
    (batch,) = batches(path, banks=banks)
    same(batch, events)


def test_dead_sensors_are_written_as_markers(tmp_path: Path) -> None:
    events = random_events(2, truth=True)
    dead = np.arange(N_CHANNELS) % 50 == 0
    path = tmp_path / "run00007.mid"
    with MidasEventWriter(path, run=7, geometry_hash="g", synthetic=True) as writer:
        writer.write(events, dead, events.npho)
    (batch,) = batches(path)
    same(batch, events.with_dead(dead), rtol=1e-6)
    assert batch.truth is None
    with MidasEventFile(path) as file:
        assert (file.synthetic, file.geometry_hash) == (True, "g")


def test_chunks_have_the_size_that_is_asked_for(tmp_path: Path) -> None:
    events = random_events(10, truth=False)
    path = tmp_path / "run00007.mid.lz4"
    with MidasEventWriter(path, run=7, geometry_hash="g", synthetic=True) as writer:
        writer.write(events)
    for size in (1, 3, 5, 10, 11):
        parts = batches(path, size)
        assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
        assert [int(each) for part in parts for each in part.event] == list(range(100, 110))
    with MidasEventFile(path) as file, pytest.raises(UsageError, match="at least one"):
        list(file.chunks(0))


def test_all_subruns_of_a_run(tmp_path: Path) -> None:
    events = random_events(10, truth=False)
    path = tmp_path / "run00007.mid.lz4"
    with MidasEventWriter(
        path, run=7, geometry_hash="g", synthetic=True, subrun_bytes=100_000
    ) as writer:
        writer.write(events)
    assert sorted(each.name for each in tmp_path.iterdir())[-1] == "run00007sub0003.mid.lz4"
    with MidasEventFile(path) as file:
        parts = [chunk.events for chunk in file.chunks(2)]
        assert file.synthetic
    assert [int(each) for part in parts for each in part.event] == list(range(100, 110))
    assert [len(part) for part in batches(tmp_path / "run00007sub0003.mid.lz4")] == [1]


def test_numbers_up_to_32_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    with MidasWriter(path, 2**32 - 1) as writer:
        writer.write(Label(2**32 - 1), readings(1.0, 0.0))
    (batch,) = batches(path)
    assert (batch.run.tolist(), batch.event.tolist()) == ([2**32 - 1], [2**32 - 1])


def data_event(serial: int, banks: Sequence[Bank], event_id: int = 1) -> bytes:
    from xec.io.midas.writer import pack_banks

    return event_bytes(event_id, serial, pack_banks(banks, Layout()))


def test_the_name_tells_the_run_where_there_is_no_begin(tmp_path: Path) -> None:
    raw = data_event(5, readings(1.0, 0.0))
    (batch,) = batches(put(tmp_path / "run00123sub0002.mid", raw))
    assert batch.run.tolist() == [123]
    with pytest.raises(FileError, match=r"event 5 of id 1 at byte 0: its run is not known"):
        batches(put(tmp_path / "a.mid", raw))


def test_the_begin_of_run_counts_where_the_name_tells_another(tmp_path: Path) -> None:
    raw = begin_of_run(9) + data_event(5, readings(1.0, 0.0)) + end_of_run(9)
    (batch,) = batches(put(tmp_path / "run00123.mid", raw))
    assert batch.run.tolist() == [9]


def test_other_events_are_left_out_and_counted(tmp_path: Path) -> None:
    scaler = [Bank.of("SCAL", BankType.DWORD, range(5))]
    raw = begin_of_run(9)
    for serial in range(6):
        raw += data_event(serial, readings(1.0, 0.0)) if serial % 3 else b""
        raw += data_event(serial, scaler, event_id=2) + event_bytes(0x8002, 0, b"hello\0")
    path = put(tmp_path / "a.mid", raw + end_of_run(9))
    with MidasEventFile(path) as file:
        events = [int(each) for chunk in file.chunks(1) for each in chunk.events.event]
        assert events == [1, 2, 4, 5]
        assert file.notes == (f"{path}: 6 events of id 2 hold no readings and were left out.",)


def test_a_run_without_events_is_a_success(tmp_path: Path) -> None:
    path = put(tmp_path / "a.mid", begin_of_run(9) + end_of_run(9))
    with MidasEventFile(path) as file:
        assert list(file.chunks(5)) == []
        assert file.notes == ()


def test_a_cut_run_gives_its_events_and_a_note(tmp_path: Path) -> None:
    raw = begin_of_run(9) + b"".join(data_event(n, readings(1.0, 0.0)) for n in range(3))
    path = put(tmp_path / "a.mid", raw[:-100])
    with MidasEventFile(path) as file:
        assert [len(chunk) for chunk in file.chunks(5)] == [2]
        (note,) = file.notes
    lost = len(data_event(0, readings(1.0, 0.0))) - 100
    assert f"its last {lost} bytes are lost, the 3 events before them are not" in note


def test_a_run_that_is_still_written_is_refused_after_its_events(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    path.write_bytes(begin_of_run(9) + data_event(0, readings(1.0, 0.0)))
    seen = []
    with MidasEventFile(path) as file, pytest.raises(FileError, match="still being written"):
        seen.extend(file.chunks(5))
    assert [len(chunk) for chunk in seen] == [1]


BAD_BANKS: dict[str, tuple[Callable[[list[Bank]], list[Bank]], str]] = {
    "missing time": (lambda good: good[:1], "has no bank XTIM"),
    "missing npho": (lambda good: good[1:], "has no bank XNPH"),
    "twice": (lambda good: [*good, good[0]], "has two banks XNPH"),
    "short": (
        lambda good: [Bank.of("XNPH", FLOAT, np.ones(4759)), good[1]],
        "bank XNPH holds 4759 values, not 4760",
    ),
    "long": (
        lambda good: [good[0], Bank.of("XTIM", FLOAT, np.ones(4761))],
        "bank XTIM holds 4761 values, not 4760",
    ),
    "other type": (
        lambda good: [Bank.of("XNPH", BankType.DWORD, np.ones(4760)), good[1]],
        "bank XNPH is of type DWORD, not FLOAT",
    ),
    "double": (
        lambda good: [good[0], Bank.of("XTIM", BankType.DOUBLE, np.ones(4760))],
        "bank XTIM is of type DOUBLE, not FLOAT",
    ),
    "unknown type": (
        lambda good: [Bank("XNPH", 19, good[0].data), good[1]],
        "bank XNPH is of unknown type 19",
    ),
    "half a value": (
        lambda good: [Bank("XNPH", 9, good[0].data[:-1]), good[1]],
        "bank XNPH holds 19039 bytes, no multiple of the 4 of a FLOAT",
    ),
}


@pytest.mark.parametrize("case", BAD_BANKS)
def test_banks_of_another_form(case: str, tmp_path: Path) -> None:
    change, message = BAD_BANKS[case]
    good = readings(1.0, 0.0)
    path = put(tmp_path / "a.mid", begin_of_run(9) + data_event(8, good) + end_of_run(9))
    assert [len(batch) for batch in batches(path)] == [1]  # control
    put(path, begin_of_run(9) + data_event(8, change(good)) + end_of_run(9))
    with pytest.raises(FileError, match=message) as caught:
        batches(path)
    assert f"{path}: event 8 of id 1 at byte 23" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_with_an_id_all_its_events_hold_both_banks(tmp_path: Path) -> None:
    scaler = [Bank.of("SCAL", BankType.DWORD, range(5))]
    raw = begin_of_run(9) + data_event(1, readings(1.0, 0.0)) + data_event(2, scaler)
    path = put(tmp_path / "a.mid", raw + end_of_run(9))
    assert len(batches(path)) == 1
    with pytest.raises(FileError, match=r"event 2 of id 1 at byte .* has no bank XNPH"):
        batches(path, banks=ReadingBanks(event_id=1))
    with pytest.raises(FileError, match="none of its 2 events holds the banks"):
        batches(path, banks=ReadingBanks(event_id=2))


def test_a_run_of_other_banks_names_them(tmp_path: Path) -> None:
    path = put(tmp_path / "a.mid", small_run())
    message = "none of its 4 events holds the banks XNPH and XTIM; the first banks are ADC0, TEMP"
    with pytest.raises(FileError, match=message):
        batches(path)


def test_what_is_neither_reading_nor_marker(tmp_path: Path) -> None:
    npho = np.ones(N_CHANNELS)
    npho[17] = -np.inf
    raw = begin_of_run(9) + data_event(1, readings(1.0, 0.0)) + data_event(2, readings(npho, 0.0))
    path = put(tmp_path / "a.mid", raw + end_of_run(9))
    with pytest.raises(
        FileError, match=r"a.mid: bank XNPH holds -inf at entry 1, which is neither"
    ):
        batches(path, 1)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds nothing: it is empty"):
        MidasEventFile(put(tmp_path / "a.mid", b""))
    with pytest.raises(FileError, match="holds nothing: its 10 bytes are no whole event"):
        MidasEventFile(put(tmp_path / "a.mid", begin_of_run(1)[:10]))


@pytest.mark.parametrize("name", ["ABC", "ABCDE", "AB\nC", "ÄBCD"])
def test_names_of_banks_have_four_characters(name: str) -> None:
    with pytest.raises(UsageError, match="named by four characters"):
        BankName(name)


def test_banks_of_readings_hold_fractions() -> None:
    with pytest.raises(UsageError, match="must be FLOAT or DOUBLE, not DWORD"):
        BankName("XNPH", BankType.DWORD)


def test_one_run_in_a_file(tmp_path: Path) -> None:
    with (
        MidasEventWriter(tmp_path / "a.mid", run=8, geometry_hash="g", synthetic=True) as writer,
        pytest.raises(UsageError, match="holds one run: event of run 7 in 8"),
    ):
        writer.write(random_events(1))


def test_kinds_of_files_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"written to .root or .mid files"):
        open_event_writer(tmp_path / "a.txt", run=1, geometry_hash="g", synthetic=True)


def test_labels_and_what_is_none() -> None:
    label = RunLabel(True, "abc")
    assert label_of(label_dump(4, label)) == label
    assert label_of(label_dump(4, RunLabel())) == RunLabel()
    assert label_of(label_dump(4, label) + b"\0") == label
    odd = (
        b"",
        b"<odb/>\0",
        b"{}",
        b"[]",
        b"null",
        b'{"XEC Reconstruct": 3}',
        b'{"XEC Reconstruct": {"format": "xec-midas/2", "geometry_hash": "g", "synthetic": true}}',
        b'{"XEC Reconstruct": {"format": "xec-midas/1", "geometry_hash": 3, "synthetic": true}}',
        b"[" * 16_000,
        b"\xff\xfe",
        label_dump(4, label) + b" " * 20_000,
    )
    assert [label_of(dump) for dump in odd] == [RunLabel()] * len(odd)


def test_large_events_are_not_held_for_their_readings(tmp_path: Path) -> None:
    """Waveforms beside the readings take a hundred times their memory."""
    wave = Bank.of("WAVE", BankType.BYTE, bytes(4_000_000))
    path = write_banks(tmp_path / "a.mid.lz4", [[*readings(1.0, 0.0), wave]] * 10)
    tracemalloc.start()
    try:
        assert [len(batch) for batch in batches(path)] == [10]
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_unit_of_time_is_a_positive_number(unit: float) -> None:
    with pytest.raises(UsageError, match="unit of time is a positive number"):
        ReadingBanks(time_unit=unit)
