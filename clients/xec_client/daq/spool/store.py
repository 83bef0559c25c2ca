"""The spool on disk: events in order, delivered at least once, removed when settled.

Two sides use it at a time, each from one thread: the writing side (`append`, `sync`) and the
consuming side (`take`, `acknowledge`, `reject`, `rewind`). A lock guards what both see; no disk
operation happens under it.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from threading import Lock

from xec_client.daq.spool import acknowledged
from xec_client.daq.spool.acknowledged import ENTRY_BYTES, AcknowledgementFiles
from xec_client.daq.spool.files import Files
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.log_writer import LogWriter
from xec_client.daq.spool.quarantine import DamageReport, DamageStore, Rejection, RejectionLedger
from xec_client.daq.spool.record import OVERHEAD, Entry
from xec_client.daq.spool.recovery import SEGMENTS, Finding, recover
from xec_client.daq.spool.segment import DATA_START, Segment
from xec_client.daq.spool.settings import SpoolSettings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spooled:
    """An event as the consumer gets it.

    Args:
        id: run and event.
        payload: its bytes, as handed over.
        sequence: its place in the order of acceptance.
        time: Unix seconds of the hand-over.
        repeated: it may have been delivered before: by a process that ended, or before `rewind`.
    """

    id: EventId
    payload: bytes
    sequence: int
    time: float
    repeated: bool


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Two claims: every event up to `accepted` survives a kill, up to `durable` a power cut."""

    accepted: int
    durable: int


class Settlement(Enum):
    """How an event left the spool."""

    RESULT = "result"
    REJECTED = "rejected"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Numbers of events at one moment, since the spool was opened.

    Args:
        carried: not settled when it was opened.
        marks: what is accepted and what is durable.
        backlog: accepted and not settled.
        settled: by how.
    """

    carried: int
    marks: Watermarks
    backlog: int
    settled: Mapping[Settlement, int]


class Store:
    """An opened spool folder.

    Args:
        files: the disk.
        folder: the spool; made if it is missing.
        settings: how it lives.

    Raises:
        OSError: the disk failed.
        FileError: something in it was written by a newer version.
    """

    def __init__(self, files: Files, folder: Path, settings: SpoolSettings) -> None:
        self._files = files
        self._settings = settings
        self._lock = Lock()
        files.make_folder(folder / SEGMENTS)
        self._damage = DamageStore(files, folder, settings.quarantine_bytes)
        files.fsync_folder(folder)
        files.fsync_folder(folder.parent)
        found = recover(files, folder)
        self._segments = found.segments
        self._settled = found.settled
        self._marks = Watermarks(found.next_sequence - 1, found.next_sequence - 1)
        self.torn = found.torn
        self._carried = 0
        self._counts = dict.fromkeys(Settlement, 0)
        for finding in found.findings:
            self._set_aside(finding)
        self._last_before = self._marks.accepted
        self._cursor = self._settled.floor
        self._outstanding: dict[EventId, list[int]] = {}
        self._carried = self.snapshot().backlog + self._counts[Settlement.DAMAGED]
        self._acks = AcknowledgementFiles(files)
        self._rejections = RejectionLedger(files, folder)
        self._writer = LogWriter(
            files,
            folder / SEGMENTS,
            found.next_number,
            settings.segment_bytes,
            self._begun,
            self._replaced,
        )
        self.health = self._writer.health
        self._used = sum(_bytes_of(segment) for segment in self._segments)
        self._leftovers = found.leftovers
        if not self._segments or self._make_durable(self._segments[-1], found.patches):
            self._remove_leftovers()
        self._trim()

    def _set_aside(self, finding: Finding) -> None:
        """Put damage that recovery found into the quarantine; its events are settled so."""
        is_new = self._damage.add(finding.report, finding.damaged)
        if is_new:
            _LOG.error("spool segment %s is damaged: see quarantine", finding.report.segment)
        lost = [sequence for sequence in finding.sequences if self._settled.add(sequence)]
        self._counts[Settlement.DAMAGED] += len(lost) if is_new else 0

    def _make_durable(self, last: Segment, patches: Mapping[int, Entry]) -> bool:
        """Write the end of the last segment anew: what the page cache has, the disk may lack.

        Args:
            last: the segment.
            patches: events that it has not, though it should.

        Raises:
            OSError: the disk failed, and some events can only be had by this.
        """
        start = max(last.first, self._settled.floor)
        entries: list[Entry] = []
        for sequence in range(start, last.next):
            missing = last.is_missing(sequence)
            entry = patches.get(sequence) if missing else last.read(self._files, sequence)
            # What is written anew has no holes: it begins behind the last damage.
            if entry is None:
                entries.clear()
            else:
                entries.append(entry)
        start = last.next - len(entries)
        self._writer.adopt(last, entries)
        try:
            self._writer.sync()
        except OSError as error:
            # The writing side tries again; until then no more is claimed.
            _LOG.warning("the end of spool segment %s is not durable: %s", last.path.name, error)
            self._marks = Watermarks(self._marks.accepted, start - 1)
            if any(sequence >= start for sequence in patches):
                raise
            return False
        return True

    def _remove_leftovers(self) -> None:
        """Remove older copies of what is durable in the segments."""
        for path in self._leftovers:
            try:
                self._files.unlink(path)
            except OSError as error:
                # The next recovery meets it again.
                _LOG.warning("%s cannot be removed: %s", path.name, error)
        self._leftovers = ()

    # -- what both sides see

    @property
    def watermarks(self) -> Watermarks:
        """What survives a kill, and what survives a power cut."""
        return self._marks

    def snapshot(self) -> Snapshot:
        """All numbers at one moment."""
        with self._lock:
            backlog = self._settled.open_until(self._marks.accepted + 1)
            return Snapshot(self._carried, self._marks, backlog, dict(self._counts))

    @property
    def used_bytes(self) -> int:
        """Bytes of all segments, and of their acknowledgements when they will be complete."""
        return self._used

    def has_room(self, payload_bytes: int) -> bool:
        """Whether an event of this size stays within the spool's bound."""
        needed = payload_bytes + OVERHEAD + ENTRY_BYTES + DATA_START
        return self._used + needed <= self._settings.max_bytes

    # -- the writing side

    def append(self, event_id: EventId, payload: bytes, handed_over: float) -> int:
        """Write an event; on return it is accepted: its sequence.

        Raises:
            OSError: the disk failed; the event is not accepted.
        """
        sequence = self._marks.accepted + 1
        entry = Entry(sequence, event_id, handed_over, payload)

        def accept() -> None:
            with self._lock:
                self._used += OVERHEAD + ENTRY_BYTES + len(payload)
                self._marks = Watermarks(sequence, self._marks.durable)

        self._writer.append(entry, accept)
        return sequence

    def is_due(self) -> bool:
        """Whether the policy wants an fsync."""
        return self._writer.is_failed or self._writer.is_due(self._settings.sync)

    def seconds_until_due(self) -> float | None:
        """Until the policy wants an fsync; None: everything is durable."""
        return self._writer.seconds_until_due(self._settings.sync)

    def sync(self) -> None:
        """Make every accepted event durable.

        Raises:
            OSError: the disk failed; the events stay in memory until it works again.
        """
        self._writer.sync()
        with self._lock:
            self._marks = Watermarks(self._marks.accepted, self._marks.accepted)

    def _begun(self, segment: Segment) -> None:
        with self._lock:
            self._segments = [*self._segments, segment]
            self._used += DATA_START

    def _replaced(self, old: Segment, fresh: Segment) -> None:
        with self._lock:
            old.cut(fresh.first)
            self._segments = [*self._segments, fresh]
            self._used = sum(_bytes_of(segment) for segment in self._segments)
        self._remove_leftovers()

    # -- the consuming side

    def take(self, limit: int) -> list[Spooled]:
        """Up to `limit` events in order, none that was taken since the last `rewind`.

        Damage that is found here goes to the quarantine and is skipped.
        """
        with self._lock:
            places = self._next_places(limit)
        taken = []
        for sequence, segment in places:
            entry, why = self._read(sequence, segment)
            if entry is None:
                try:
                    self._quarantine(sequence, segment, why)
                except OSError as error:
                    # Neither to be read nor to be reported: the disk is gone for now.
                    self.health.last = str(error)
                    with self._lock:
                        self._cursor = sequence
                    break
                continue
            repeated = sequence <= self._last_before
            self._outstanding.setdefault(entry.id, []).append(sequence)
            taken.append(Spooled(entry.id, entry.payload, sequence, entry.time, repeated))
        return taken

    def _next_places(self, limit: int) -> list[tuple[int, Segment]]:
        places: list[tuple[int, Segment]] = []
        starts = [segment.first for segment in self._segments]
        while len(places) < limit and self._cursor <= self._marks.accepted:
            sequence, self._cursor = self._cursor, self._cursor + 1
            if sequence not in self._settled:
                row = bisect_right(starts, sequence) - 1
                places.append((sequence, self._segments[row]))
        return places

    def _read(self, sequence: int, segment: Segment) -> tuple[Entry | None, str]:
        try:
            return segment.read(self._files, sequence), "checksum"
        except OSError as error:
            return None, str(error)

    def _quarantine(self, sequence: int, segment: Segment, why: str) -> None:
        row = sequence - segment.first
        offset, size = segment.offsets[row], segment.sizes[row]
        event_id = segment.id_of(sequence)
        _LOG.error("%s is damaged in spool segment %s: %s", event_id, segment.path.stem, why)
        ids = () if segment.is_missing(sequence) else (event_id,)
        report = DamageReport(segment.path.stem, offset, size, ids, 1 - len(ids), time.time())
        try:
            damaged = self._files.read_at(segment.path, offset, size)
        except OSError:
            damaged = b""
        self._damage.add(report, damaged)
        self._settle([sequence], Settlement.DAMAGED)

    def acknowledge(self, ids: Iterable[EventId]) -> int:
        """The sink holds the results of these events durably: how many were waiting for that.

        An id that is not being waited for, such as one acknowledged before, is ignored.
        """
        return self._settle(self._claim(ids), Settlement.RESULT)

    def reject(self, ids: Iterable[EventId], reason: str) -> int:
        """There will be no result of these events; on return that is on record durably.

        Raises:
            OSError: the disk failed; the events stay in the spool.
        """
        wanted = [event_id for event_id in ids if event_id in self._outstanding]
        if not wanted:
            return 0
        now = time.time()
        self._rejections.add(Rejection(event_id, reason, now) for event_id in wanted)
        return self._settle(self._claim(wanted), Settlement.REJECTED)

    def rewind(self) -> None:
        """Deliver all events that are not settled again, from the oldest on."""
        with self._lock:
            self._last_before = max(self._last_before, self._cursor - 1)
            self._cursor = self._settled.floor
        self._outstanding.clear()

    def _claim(self, ids: Iterable[EventId]) -> list[int]:
        return [sequence for event_id in ids for sequence in self._outstanding.pop(event_id, ())]

    def _settle(self, sequences: list[int], how: Settlement) -> int:
        with self._lock:
            fresh = [sequence for sequence in sequences if self._settled.add(sequence)]
            self._counts[how] += len(fresh)
            segments = self._segments
        starts = [segment.first for segment in segments]
        by_row: dict[int, list[int]] = {}
        for sequence in fresh:
            by_row.setdefault(bisect_right(starts, sequence) - 1, []).append(sequence)
        for row, some in by_row.items():
            try:
                self._acks.append(segments[row], some)
            except OSError as error:
                # They are delivered again after a restart; the sink recognises them.
                self.health.last = str(error)
        self._trim()
        return len(fresh)

    def _trim(self) -> None:
        """Remove the oldest segments as long as all their events are settled."""
        while True:
            with self._lock:
                if len(self._segments) < 2 or self._segments[0].next > self._settled.floor:
                    return
                oldest = self._segments[0]
                self._segments = self._segments[1:]
                self._used = sum(_bytes_of(segment) for segment in self._segments)
            self._acks.forget(oldest)
            try:
                self._files.unlink(oldest.path)
                self._files.unlink(acknowledged.path_of(oldest.path))
            except OSError as error:
                # Recovery meets it as settled once more.
                _LOG.warning("spool segment %s cannot be removed: %s", oldest.path.name, error)

    def close(self) -> None:
        """Close all files; what is not synced is not durable."""
        self._writer.close()
        self._acks.close()
        self._rejections.close()


def _bytes_of(segment: Segment) -> int:
    return segment.size + ENTRY_BYTES * len(segment.offsets)
