"""Defects put into the spool on purpose: the suite has to catch each of them, n of n."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support_memory_disk import Fault, Killed, MemoryDisk, PowerCut, at, at_each, broken
from support_spool import SMALL, SPOOL, digest_of, ids, payload_of
from test_spool_faults import lossy_lives, walk, walk_publish
from test_spool_format import damaged_outcome, flipped, segment_names, written
from xec_client.daq.spool import files, gap_ledger, quarantine, record, segment
from xec_client.daq.spool.check import check
from xec_client.daq.spool.contents import read_contents
from xec_client.daq.spool.files import DiskFiles, Files
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.log_writer import LogWriter
from xec_client.daq.spool.record import Entry
from xec_client.daq.spool.settings import SpoolSettings
from xec_client.daq.spool.spool import Spool
from xec_client.daq.spool.store import Store

Patch = pytest.MonkeyPatch


# -- the defects


def fsync_removed(patch: Patch) -> None:
    def nothing(self: MemoryDisk, fd: int) -> None:
        self._refuse("fsync")

    patch.setattr(MemoryDisk, "fsync", nothing)


def folder_never_synced(patch: Patch) -> None:
    def nothing(self: MemoryDisk, folder: Path) -> None:
        self._refuse("fsync folder")

    patch.setattr(MemoryDisk, "fsync_folder", nothing)


def accepted_before_written(patch: Patch) -> None:
    original = LogWriter.append

    def append(self: LogWriter, entry: Entry, accept: Callable[[], None]) -> None:
        accept()
        original(self, entry, lambda: None)

    patch.setattr(LogWriter, "append", append)


def acknowledged_before_written(patch: Patch) -> None:
    """Settled as soon as it is delivered, not when the sink has it."""
    original = Store.take

    def take(self: Store, limit: int) -> Any:
        taken = original(self, limit)
        self.acknowledge([spooled.id for spooled in taken])
        return taken

    patch.setattr(Store, "take", take)


def page_cache_trusted(patch: Patch) -> None:
    """What an earlier process left is called durable because it can be read."""
    patch.setattr(Store, "_make_durable", lambda *_: True)


def checksum_off(patch: Patch) -> None:
    patch.setattr(record, "_matches", lambda *_: True)


def rename_before_fsync(patch: Patch) -> None:
    def publish(disk: Files, path: Path, content: bytes) -> None:
        temporary = path.with_name(path.name + files.TEMPORARY)
        disk.unlink(temporary)
        fd = disk.create(temporary)
        disk.write_at(fd, content, 0)
        disk.rename(temporary, path)
        disk.fsync_folder(path.parent)
        disk.fsync(fd)
        disk.close(fd)

    for module in (files, gap_ledger, quarantine, segment):
        patch.setattr(module, "publish", publish)
    patch.setattr("test_spool_faults.publish", publish)


def fsync_retried(patch: Patch) -> None:
    original = segment.SegmentWriter.fsync

    def fsync(self: segment.SegmentWriter) -> None:
        try:
            original(self)
        except OSError:
            original(self)

    patch.setattr(segment.SegmentWriter, "fsync", fsync)


def unbounded_queue(patch: Patch) -> None:
    patch.setattr(Spool, "_refusal", lambda *_: None)


def last_event_dropped(patch: Patch) -> None:
    original = Spool.close

    def close(self: Spool, timeout: float = 30.0) -> None:
        with self._wake:
            if self._queue:
                self._queue.pop()
        original(self, timeout)

    patch.setattr(Spool, "close", close)


def gap_not_recorded(patch: Patch) -> None:
    patch.setattr(Spool, "_note_gap", lambda *_: None)


# -- the checks, each of the rest of the suite: what they find wrong; nothing without a defect


def kill_walk(_: Path) -> object:
    return walk(lambda n: at(n, Killed), power=False)[1]


def power_walk(_: Path) -> object:
    return walk(lambda n: at(n, PowerCut), power=True)[1]


def fsync_error_walk(_: Path) -> object:
    def fault(n: int) -> Fault:
        return at_each("fsync", n, broken, 1)

    return walk(fault, power=True)[1]


def lives(_: Path) -> object:
    return lossy_lives(range(150))


def publish_walk(_: Path) -> object:
    return [wrong for seed in range(5) for wrong in walk_publish(seed)]


def flip_check(_: Path) -> object:
    disk = written()
    flipped(disk, SPOOL / "segments" / segment_names(disk)[0], 128 + 52 + 3, 1)
    return damaged_outcome(disk)[0].altered


class Hanging(DiskFiles):
    def __init__(self, gate: threading.Event, seen: threading.Event) -> None:
        self.gate, self.seen = gate, seen

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        if len(data) < 1000:  # a record, not a ledger that is being made
            self.seen.set()
            assert self.gate.wait(20)
        super().write_at(fd, data, offset)


def offered_while_the_disk_hangs(folder: Path) -> tuple[Spool, dict[EventId, str], int]:
    gate, seen = threading.Event(), threading.Event()
    gate.set()
    settings: SpoolSettings = replace(SMALL, handover=folder, gap_slots=64)
    spool = Spool(folder / "spool", settings, Hanging(gate, seen))
    gate.clear()
    offered = {}
    for event_id in ids(100):
        offered[event_id] = digest_of(payload_of(event_id))
        spool.offer(event_id, payload_of(event_id))
    held = spool.accounting().in_memory
    threading.Timer(0.05, gate.set).start()
    return spool, offered, held


def bound_check(folder: Path) -> object:
    spool, _, held = offered_while_the_disk_hangs(folder)
    spool.close()
    return max(held - SMALL.memory_events, 0)


def ledger_check(folder: Path) -> object:
    spool, offered, _ = offered_while_the_disk_hangs(folder)
    spool.close()
    return check(offered, [], read_contents(folder / "spool")).lost


CAUGHT_BY: list[tuple[Callable[[Patch], None], Callable[[Path], object]]] = [
    (fsync_removed, power_walk),
    (folder_never_synced, power_walk),
    (accepted_before_written, kill_walk),
    (acknowledged_before_written, kill_walk),
    (page_cache_trusted, lives),
    (checksum_off, flip_check),
    (rename_before_fsync, publish_walk),
    (fsync_retried, fsync_error_walk),
    (unbounded_queue, bound_check),
    (last_event_dropped, ledger_check),
    (gap_not_recorded, ledger_check),
]


def name(function: Callable[..., object]) -> str:
    return function.__name__


@pytest.mark.parametrize(("defect", "look"), CAUGHT_BY, ids=[name(d) for d, _ in CAUGHT_BY])
def test_each_defect_is_caught(
    defect: Callable[[Patch], None],
    look: Callable[[Path], object],
    monkeypatch: Patch,
    tmp_path: Path,
) -> None:
    defect(monkeypatch)
    assert look(tmp_path)


@pytest.mark.parametrize("look", sorted({look for _, look in CAUGHT_BY}, key=name), ids=name)
def test_without_a_defect_nothing_is_found(look: Callable[[Path], object], tmp_path: Path) -> None:
    assert not look(tmp_path)
