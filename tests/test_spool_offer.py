"""Handing over: nothing makes the source wait, memory is bounded, the law of accounting holds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support_memory_disk import broken, no_space
from support_spool import SMALL, digest_of, ids, payload_of
from xec.errors import FileError, UsageError
from xec_client.daq.spool.check import check
from xec_client.daq.spool.contents import read_contents
from xec_client.daq.spool.files import DiskFiles
from xec_client.daq.spool.gap_table import GapReason
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.settings import EVERY_EVENT, SpoolSettings, SyncPolicy
from xec_client.daq.spool.spool import DiskState, Spool
from xec_client.daq.spool.store import Spooled

SOON = 20.0  # seconds until something that should happen counts as not happening


class Valve(DiskFiles):
    """A disk whose writes and fsyncs hang while it is shut, or fail with `error`."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.hanging = threading.Event()
        self.error: Callable[[], BaseException] | None = None

    def _pass(self) -> None:
        if not self.opened.is_set():
            self.hanging.set()
            assert self.opened.wait(SOON)
        if self.error is not None:
            raise self.error()

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        self._pass()
        super().write_at(fd, data, offset)

    def fsync(self, fd: int) -> None:
        self._pass()
        super().fsync(fd)


@pytest.fixture
def settings(tmp_path: Path) -> SpoolSettings:
    return replace(SMALL, handover=tmp_path)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)


def drain(spool: Spool) -> list[Spooled]:
    """Everything, until nothing waits in memory or on disk."""
    found: list[Spooled] = []
    end = time.monotonic() + SOON
    while True:
        taken = spool.take(50, 0.02)
        found += taken
        spool.acknowledge(spooled.id for spooled in taken)
        accounting = spool.accounting()
        if not taken and not accounting.spooled and not accounting.in_memory:
            return found
        assert time.monotonic() < end, "it never came to an end"


@contextmanager
def shut(valve: Valve, spool: Spool) -> Iterator[None]:
    """The disk hangs, and the writer thread is seen to hang in it."""
    valve.opened.clear()
    spool.offer(EventId(1, 0), b"the one that hangs")
    assert valve.hanging.wait(SOON)
    try:
        yield
    finally:
        valve.opened.set()


def test_events_come_out_in_order_and_once(tmp_path: Path, settings: SpoolSettings) -> None:
    events = ids(60)
    with Spool(tmp_path / "spool", replace(settings, memory_events=100)) as spool:
        sequences = [spool.offer(event_id, payload_of(event_id)) for event_id in events]
        assert sequences == list(range(1, 61))
        wait_until(lambda: spool.watermarks.accepted == 60)
        found = drain(spool)
        assert [(s.id, s.payload) for s in found] == [(i, payload_of(i)) for i in events]
        assert not any(spooled.repeated for spooled in found)
        accounting = spool.accounting()
        assert (accounting.offered, accounting.results, accounting.unaccounted) == (60, 60, 0)
        assert accounting.analysed == 1.0


def test_a_hanging_disk_holds_nobody_up(tmp_path: Path, settings: SpoolSettings) -> None:
    valve = Valve()
    events = ids(200)
    with Spool(tmp_path / "spool", settings, valve) as spool:
        with shut(valve, spool):
            kept = [spool.offer(event_id, payload_of(event_id)) for event_id in events]
            # Here the disk still hangs: 15 wait with the one that hangs, the others are on record.
            assert sum(sequence is not None for sequence in kept) == settings.memory_events - 1
            accounting = spool.accounting()
            assert accounting.in_memory == settings.memory_events
            assert accounting.gaps[GapReason.DISK_SLOW] == len(events) - 15
            assert accounting.unaccounted == 0
            (gap,) = spool.gaps
            assert (gap.first, gap.last) == (events[15], events[-1])
            assert gap.is_exact
        assert [s.id for s in drain(spool)] == [EventId(1, 0), *events[:15]]
        assert spool.accounting().unaccounted == 0


def test_memory_is_bounded_in_bytes(tmp_path: Path, settings: SpoolSettings) -> None:
    valve = Valve()
    small = replace(settings, memory_events=1000, memory_bytes=5000)
    with Spool(tmp_path / "spool", small, valve) as spool, shut(valve, spool):
        kept = [spool.offer(event_id, bytes(900)) for event_id in ids(20)]
        assert sum(sequence is not None for sequence in kept) == 5


@pytest.mark.parametrize(
    ("error", "reason"), [(no_space, GapReason.SPOOL_FULL), (broken, GapReason.DISK_FAILED)]
)
def test_a_disk_that_refuses_is_tried_again(
    tmp_path: Path,
    settings: SpoolSettings,
    error: Callable[[], BaseException],
    reason: GapReason,
) -> None:
    valve = Valve()
    events = ids(40)
    with Spool(tmp_path / "spool", settings, valve) as spool:
        valve.error = error
        spool.offer(EventId(1, 0), b"")
        wait_until(lambda: spool.disk.value is reason)
        for event_id in events:
            spool.offer(event_id, payload_of(event_id))
        assert spool.accounting().gaps[reason] == len(events) - 15
        assert spool.health.last
        valve.error = None
        assert [s.id for s in drain(spool)] == [EventId(1, 0), *events[:15]]
        assert not spool.health.last
    ledger = read_contents(tmp_path / "spool").gaps
    assert [(gap.first, gap.last, gap.reason) for gap in ledger] == [
        (events[15], events[-1], reason)
    ]


def test_a_full_spool_goes_on_when_the_consumer_does(
    tmp_path: Path, settings: SpoolSettings
) -> None:
    tight = replace(settings, max_bytes=4096, memory_events=4)
    offered, results = {}, []
    with Spool(tmp_path / "spool", tight) as spool:
        for event_id in ids(150):
            offered[event_id] = digest_of(payload_of(event_id))
            spool.offer(event_id, payload_of(event_id))
            wait_until(lambda: spool.disk is DiskState.FULL or not spool.accounting().in_memory)
            if event_id.event in {70, 110}:
                assert spool.accounting().gaps[GapReason.SPOOL_FULL] > 0
                results += [(s.id, digest_of(s.payload)) for s in drain(spool)]
        used = sum(path.stat().st_size for path in (tmp_path / "spool/segments").iterdir())
        assert used <= tight.max_bytes
        assert spool.accounting().unaccounted == 0
    verdict = check(offered, results, read_contents(tmp_path / "spool"))
    assert verdict.is_clean, verdict
    assert verdict.gap > 0
    assert verdict.spooled > 0


def test_what_the_disk_does_not_take_before_the_end_is_on_record(
    tmp_path: Path, settings: SpoolSettings
) -> None:
    valve = Valve()
    spool = Spool(tmp_path / "spool", replace(settings, sync=EVERY_EVENT), valve)
    spool.offer(EventId(1, 1), b"kept")
    wait_until(lambda: spool.watermarks.durable == 1)
    valve.error = no_space
    for event_id in ids(6)[1:]:
        spool.offer(event_id, b"not kept")
    wait_until(lambda: spool.disk.value is GapReason.SPOOL_FULL)
    spool.close()
    assert spool.accounting().unaccounted == 0
    with Spool(tmp_path / "spool", settings) as spool:
        # The ledger could not be written either: the hand-over file told what was in memory.
        assert sum(gap.count for gap in spool.gaps) == 5
        assert [s.id for s in drain(spool)] == [EventId(1, 1)]
    contents = read_contents(tmp_path / "spool")
    assert sum(gap.count for gap in contents.gaps) == 5


def test_an_event_too_large_is_on_record(tmp_path: Path, settings: SpoolSettings) -> None:
    with Spool(tmp_path / "spool", settings) as spool:
        assert spool.offer(EventId(1, 1), bytes(2000)) is None
        (gap,) = spool.gaps
        assert (gap.first, gap.count, gap.reason) == (EventId(1, 1), 1, GapReason.TOO_LARGE)


def test_duplicates_and_disorder_are_delivered_as_they_came(
    tmp_path: Path, settings: SpoolSettings
) -> None:
    order = [EventId(2, 5), EventId(1, 9), EventId(2, 5), EventId(1, 3)]
    with Spool(tmp_path / "spool", settings) as spool:
        for event_id in order:
            spool.offer(event_id, payload_of(event_id))
        wait_until(lambda: spool.watermarks.accepted == 4)
        taken = spool.take(10)
        assert [spooled.id for spooled in taken] == order
        # One acknowledgement of an id settles every copy that was delivered.
        assert spool.acknowledge({EventId(2, 5), EventId(1, 9), EventId(1, 3)}) == 4
        assert spool.acknowledge(order) == 0
        assert spool.accounting().unaccounted == 0


def test_what_is_not_acknowledged_comes_again_with_a_mark(
    tmp_path: Path, settings: SpoolSettings
) -> None:
    events = ids(9)
    with Spool(tmp_path / "spool", settings) as spool:
        for event_id in events:
            spool.offer(event_id, payload_of(event_id))
        wait_until(lambda: spool.watermarks.accepted == 9)
        assert [s.repeated for s in spool.take(6)] == [False] * 6
        spool.acknowledge([events[0], events[3]])
        spool.rewind()
        again = spool.take(20)
        rest = [i for i in events if i not in {events[0], events[3]}]
        assert [s.id for s in again] == rest
        assert [s.repeated for s in again] == [True] * 4 + [False] * 3
        spool.reject([events[1]], "NaN in a valid sensor")
    with Spool(tmp_path / "spool", settings) as spool:
        assert [(s.id, s.repeated) for s in drain(spool)] == [(i, True) for i in rest[1:]]
        assert spool.accounting().carried == 6
        assert spool.accounting().unaccounted == 0
    (rejection,) = read_contents(tmp_path / "spool").rejected
    assert (rejection.id, rejection.reason) == (events[1], "NaN in a valid sensor")


def test_an_event_becomes_durable_by_itself(tmp_path: Path, settings: SpoolSettings) -> None:
    """No other event has to follow it: the writer wakes up when the policy's time is over."""
    timed = replace(settings, sync=SyncPolicy(events=1000, seconds=0.02))
    with Spool(tmp_path / "spool", timed) as spool:
        spool.offer(EventId(1, 1), b"alone")
        wait_until(lambda: spool.watermarks.durable == 1)


def test_a_second_owner_is_refused_in_one_sentence(tmp_path: Path, settings: SpoolSettings) -> None:
    sentence = rf"is in use by process {os.getpid()}: stop it, or name another spool\.$"
    with Spool(tmp_path / "spool", settings), pytest.raises(FileError, match=sentence):
        Spool(tmp_path / "spool", settings)
    Spool(tmp_path / "spool", settings).close()


def test_a_closed_spool_takes_nothing(tmp_path: Path, settings: SpoolSettings) -> None:
    spool = Spool(tmp_path / "spool", settings)
    spool.close()
    spool.close()
    with pytest.raises(UsageError, match="closed"):
        spool.offer(EventId(1, 1), b"")


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot be opened"):
        Spool(tmp_path / "file" / "spool")


def test_a_defect_of_the_writer_thread_is_not_swallowed(
    tmp_path: Path, settings: SpoolSettings
) -> None:
    valve = Valve()
    spool = Spool(tmp_path / "spool", settings, valve)
    valve.error = lambda: ZeroDivisionError("a defect")
    spool.offer(EventId(1, 1), b"x")
    with pytest.raises(ZeroDivisionError):
        spool.close()
    valve.error = None
    with Spool(tmp_path / "spool", settings) as spool:
        assert [gap.first for gap in spool.gaps] == [EventId(1, 1)]


def test_the_law_holds_at_every_moment(tmp_path: Path, settings: SpoolSettings) -> None:
    """Read by a third thread while the others work, with a full memory and a full disk."""
    tight = replace(settings, max_bytes=8192, memory_events=4)
    with Spool(tmp_path / "spool", tight) as spool:

        def produce() -> None:
            for event_id in ids(600):
                spool.offer(event_id, payload_of(event_id))
                time.sleep(1e-5)  # let the others work

        def consume() -> None:
            while source.is_alive():
                spool.acknowledge([spooled.id for spooled in spool.take(5)])

        source = threading.Thread(target=produce)
        threads = [source, threading.Thread(target=consume)]
        for thread in threads:
            thread.start()
        seen = []
        while source.is_alive():
            seen.append(spool.accounting())
        for thread in threads:
            thread.join()
    assert {accounting.unaccounted for accounting in seen} == {0}
    assert len({accounting.offered for accounting in seen}) > 20


def test_a_damaged_identity_is_refused_in_one_sentence(
    tmp_path: Path, settings: SpoolSettings
) -> None:
    Spool(tmp_path / "spool", settings).close()
    (tmp_path / "spool" / "spool.id").write_bytes(b"../../elsewhere")
    with pytest.raises(FileError, match=r"spool\.id is damaged: remove it"):
        Spool(tmp_path / "spool", settings)


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="four of its segments"):
        SpoolSettings(max_bytes=1000, segment_bytes=1024)
    with pytest.raises(UsageError, match="positive"):
        SpoolSettings(memory_events=0)
