"""The gap ledger: exact while it has room, honest when it has none, sound after kills and cuts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Condition

import pytest

from support_memory_disk import MemoryDisk, PowerCut, at, at_each, broken
from support_spool import SPOOL, ids
from xec.errors import FileError
from xec_client.daq.spool import gap_ledger
from xec_client.daq.spool.gap_recorder import GapRecorder
from xec_client.daq.spool.gap_table import SLOT_BYTES, GapReason, GapTable, decode_slot
from xec_client.daq.spool.handover import Handover, Remains, read_remains
from xec_client.daq.spool.ids import EventId

FULL, SLOW = GapReason.SPOOL_FULL, GapReason.DISK_SLOW


def table(slots: int = 4) -> GapTable:
    return GapTable(bytearray(slots * SLOT_BYTES))


def test_consecutive_events_make_one_range() -> None:
    gaps = table()
    for event_id in [*ids(5), EventId(7, 7), EventId(8, 8)]:
        gaps.add(event_id, FULL, float(event_id.event))
    assert [(g.first.event, g.last.event, g.count, g.is_exact) for g in gaps] == [
        (1, 5, 5, True),
        (7, 7, 1, True),
        (8, 8, 1, True),
    ]
    assert (gaps.ranges[0].since, gaps.ranges[0].until) == (1.0, 5.0)


def test_another_reason_is_another_range() -> None:
    gaps = table()
    gaps.add(EventId(1, 1), FULL, 1.0)
    gaps.add(EventId(1, 2), SLOW, 1.0)
    assert [g.reason for g in gaps] == [FULL, SLOW]


def test_without_a_slot_left_the_count_stays_right() -> None:
    gaps = table(slots=2)
    for event_id in [EventId(1, 1), EventId(1, 5), EventId(1, 9), EventId(3, 2), EventId(1, 3)]:
        gaps.add(event_id, FULL, 1.0)
    last = gaps.ranges[-1]
    assert (last.first, last.last, last.count) == (EventId(1, 3), EventId(3, 2), 4)
    assert not last.is_exact


def test_a_table_is_what_its_bytes_say() -> None:
    buffer = bytearray(4 * SLOT_BYTES)
    gaps = GapTable(buffer)
    for event_id in [*ids(3), EventId(9, 1)]:
        gaps.add(event_id, FULL, 1.0)
    assert GapTable(bytearray(buffer)).ranges == gaps.ranges


def test_a_slot_whose_writing_was_cut_off_keeps_what_it_held() -> None:
    buffer = bytearray(SLOT_BYTES)
    gaps = GapTable(buffer)
    for event_id in ids(4):
        gaps.add(event_id, FULL, 1.0)
    before = bytes(buffer)
    gaps.add(EventId(7, 5), FULL, 1.0)
    after = bytes(buffer)
    counts = set()
    for cut in range(SLOT_BYTES + 1):
        gap = decode_slot(after[:cut] + before[cut:])
        assert gap is not None
        counts.add(gap.count)
    assert counts == {4, 5}
    # Control: both copies damaged is noticed as well.
    assert decode_slot(bytes(byte ^ 1 for byte in after)) is None


def recorder(disk: MemoryDisk, slots: int = 8) -> GapRecorder:
    disk.make_folder(SPOOL)
    return GapRecorder(disk, SPOOL, slots)


def recorded(disk: MemoryDisk) -> int:
    return sum(gap.count for gap in gap_ledger.read(disk, SPOOL) if gap is not None)


def test_a_power_cut_at_any_operation_keeps_every_flushed_gap() -> None:
    guard = Condition()
    for seed in range(3):
        for number in range(1, 30):
            disk, flushed = MemoryDisk(100 * seed + number), 0
            disk.fault = at(number, PowerCut)
            try:
                gaps = recorder(disk)
                for event_id in ids(10):
                    gaps.add(event_id, FULL if event_id.event < 6 else SLOW, 1.0)
                    gaps.flush(guard)
                    flushed = event_id.event
            except PowerCut:
                pass
            disk.cut_power()
            assert flushed <= recorded(disk) <= flushed + 1


def test_after_a_failed_fsync_the_ledger_is_written_anew() -> None:
    guard = Condition()
    disk = MemoryDisk(3)
    gaps = recorder(disk)
    gaps.add(EventId(1, 1), FULL, 1.0)
    disk.fault = at_each("fsync", 1, broken, 2)
    gaps.flush(guard)
    gaps.flush(guard)
    assert not gaps.is_durable
    gaps.flush(guard)
    assert gaps.is_durable
    gaps.add(EventId(1, 2), FULL, 1.0)
    gaps.flush(guard)
    disk.cut_power()
    assert recorded(disk) == 2
    assert disk.log.count("rename") == 2


def test_a_full_disk_cannot_keep_a_gap_from_being_written() -> None:
    """The ledger has its final size from the beginning."""
    disk = MemoryDisk()
    gaps = recorder(disk)
    size = disk.size(SPOOL / gap_ledger.NAME)
    for event in range(0, 100, 2):
        gaps.add(EventId(1, event), FULL, 1.0)
    gaps.flush(Condition())
    assert disk.size(SPOOL / gap_ledger.NAME) == size
    assert recorded(disk) == 50


def test_what_a_killed_process_left_is_taken_over_once(tmp_path: Path) -> None:
    path = tmp_path / "handover"
    left = Handover(path, 4, bytes(2 * SLOT_BYTES))
    GapTable(left).add(EventId(1, 1), FULL, 1.0)
    for sequence in range(1, 7):
        left.note(sequence, EventId(1, 10 + sequence))
    remains = read_remains(path)
    assert [sequence for sequence, _ in remains.waiting] == [3, 4, 5, 6]
    disk = MemoryDisk()
    # Sequences below 5 reached the disk. Killed before a new file is begun, the next does it again.
    assert recorder(disk).absorb(remains, 5) == 2
    assert recorder(disk).absorb(remains, 5) == 0
    found = [(g.first.event, g.last.event, g.reason) for g in recorder(disk).ranges]
    assert found == []  # only absorb reads the ledger into the table
    ranges = [gap for gap in gap_ledger.read(disk, SPOOL) if gap is not None]
    assert [(g.first.event, g.last.event) for g in ranges] == [(1, 1), (15, 16)]
    assert ranges[1].reason is GapReason.LOST_IN_MEMORY


def test_ledger_and_handover_are_merged_slot_by_slot() -> None:
    disk = MemoryDisk()
    gaps = recorder(disk)
    for event_id in ids(3):
        gaps.add(event_id, FULL, 1.0)
    gaps.flush(Condition())
    (on_disk, *_) = gap_ledger.read(disk, SPOOL)
    assert on_disk is not None
    newer = replace(on_disk, last=EventId(7, 5), count=5)
    again = recorder(disk)
    again.absorb(Remains((), (newer, None)), 1)
    assert again.ranges == (newer,)
    # What the memory lost in a power cut, the disk still knows.
    third = recorder(disk)
    third.absorb(Remains(), 1)
    assert third.ranges == (newer,)


def test_a_strange_handover_file_is_ignored_and_a_strange_ledger_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"something else")
    assert read_remains(tmp_path / "x") == Remains()
    assert read_remains(tmp_path / "absent") == Remains()
    # A header that promises more than there is.
    (tmp_path / "short").write_bytes(b"XECHAND\x01" + b"\xff" * 24)
    assert read_remains(tmp_path / "short") == Remains()
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with pytest.raises(OSError, match="symbolic links"):
        read_remains(tmp_path / "link")
    disk = MemoryDisk()
    gaps = recorder(disk)
    gaps.close()
    disk.folders[SPOOL].volatile[gap_ledger.NAME].volatile[:4] = b"????"
    with pytest.raises(FileError, match="is no gap ledger of this version"):
        recorder(disk)
