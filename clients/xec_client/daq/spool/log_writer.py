"""The writing end of the store: the active segment, and what is not yet durable in memory.

One thread owns it. Its rule after an error: a file whose fsync failed, or whose end cannot be cut
after a failed write, is never written or synced again. What it held that was not durable is written
from memory into a new segment, which takes its place once that is synced.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xec_client.daq.spool.files import Files
from xec_client.daq.spool.record import MARKER_BYTES, OVERHEAD, Entry
from xec_client.daq.spool.segment import FORMAT_VERSION, Header, Segment, SegmentWriter
from xec_client.daq.spool.settings import SyncPolicy

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class DiskHealth:
    """What the disk refused.

    Args:
        write_errors: failed writes, new files included.
        fsync_errors: failed fsyncs.
        replaced: segments that were given up and written anew.
        last: what the system said last; empty: nothing is wrong now.
    """

    write_errors: int = 0
    fsync_errors: int = 0
    replaced: int = 0
    last: str = ""


@dataclass(frozen=True, slots=True)
class _Held:
    """An event that is written and not yet durable."""

    entry: Entry
    size: int
    since: float


class LogWriter:
    """Appends events to segments.

    Args:
        files: the disk.
        folder: where the segments are.
        first_number: of the next segment.
        segment_bytes: a segment that would become larger is followed by a new one.
        begun: called with each new segment, already published.
        replaced: called with the segment that failed and the one that takes its place.
    """

    def __init__(
        self,
        files: Files,
        folder: Path,
        first_number: int,
        segment_bytes: int,
        begun: Callable[[Segment], None],
        replaced: Callable[[Segment, Segment], None],
    ) -> None:
        self._files = files
        self._folder = folder
        self._number = first_number
        self._segment_bytes = segment_bytes
        self._begun = begun
        self._replaced = replaced
        self._active: SegmentWriter | None = None
        self._suspect: Segment | None = None
        self._failed = False
        self._held: list[_Held] = []
        self.health = DiskHealth()

    def adopt(self, segment: Segment, entries: list[Entry]) -> None:
        """Distrust the end of an earlier process's last segment: write it anew with the next sync.

        That process may have been killed after a failed fsync. Then the events are still read from
        the page cache, an fsync now says nothing against it, and a power cut would take them.

        Args:
            segment: the last one.
            entries: its last events.
        """
        now = time.monotonic()
        sizes = [OVERHEAD + len(entry.payload) for entry in entries]
        self._held = [_Held(e, size, now) for e, size in zip(entries, sizes, strict=True)]
        self._suspect = segment
        self._failed = bool(entries)

    @property
    def is_failed(self) -> bool:
        """Whether the active segment waits to be replaced."""
        return self._failed

    def is_due(self, policy: SyncPolicy) -> bool:
        """Whether the policy wants an fsync now."""
        if not self._held:
            return False
        age = time.monotonic() - self._held[0].since
        return policy.is_due(len(self._held), age, sum(held.size for held in self._held))

    def seconds_until_due(self, policy: SyncPolicy) -> float | None:
        """Until the oldest event that is not durable gets too old; None: all are durable."""
        if not self._held:
            return None
        return max(self._held[0].since + policy.seconds - time.monotonic(), 0.0)

    def append(self, entry: Entry, accept: Callable[[], None]) -> None:
        """Write an event; `accept` is called once it survives a kill.

        Raises:
            OSError: the disk failed; the event does not count.
        """
        size = OVERHEAD + len(entry.payload)
        if self._failed:
            self._replace()
        if self._active and self._active.segment.size + size > self._segment_bytes:
            self.sync()
            self.seal()
        if self._active is None:
            self._active = self._begin(entry.sequence)
            self._begun(self._active.segment)
        try:
            place = self._active.write(entry)
        except OSError as error:
            self._note_failed_write(error)
            self._cut_tail()
            raise
        self._active.note(entry, *place)
        self._held.append(_Held(entry, size, time.monotonic()))
        self.health.last = ""
        accept()

    def _cut_tail(self) -> None:
        """After a failed write: the file ends behind its last record again, or is given up."""
        assert self._active is not None
        try:
            self._active.cut_tail()
        except OSError:
            self._failed = True

    def sync(self) -> None:
        """Make all written events durable.

        Raises:
            OSError: the disk failed; they stay in memory.
        """
        if self._failed:
            self._replace()
        if not self._held or self._active is None:
            return
        try:
            self._active.fsync()
        except OSError as error:
            self._note_failed_fsync(error)
            self._failed = True
            self._replace()
        else:
            self._held.clear()
            self.health.last = ""

    def seal(self) -> None:
        """End the active segment; all its events are durable."""
        if self._active is not None:
            self._active.close()
            self._active = None

    def _begin(self, first: int) -> SegmentWriter:
        header = Header(FORMAT_VERSION, first, secrets.token_bytes(MARKER_BYTES), time.time())
        number, self._number = self._number, self._number + 1
        try:
            return SegmentWriter(self._files, self._folder, number, header)
        except OSError as error:
            self._note_failed_write(error)
            raise

    def _replace(self) -> None:
        """Write what is not durable into a new segment, sync it, and let it take over."""
        if not self._held:
            self.seal()
            self._failed = False
            return
        fresh = self._begin(self._held[0].entry.sequence)
        try:
            for held in self._held:
                fresh.note(held.entry, *fresh.write(held.entry))
            fresh.fsync()
        except OSError as error:
            self._note_failed_fsync(error)
            self._abandon(fresh)
            raise
        if self._active is not None:
            _LOG.warning("spool segment %s was given up: %s", self._active.segment.path.name, self)
            self._suspect = self._active.segment
            self._active.close()
            self.health.replaced += 1
        assert self._suspect is not None
        self._active = fresh
        self._failed = False
        self._held.clear()
        self._replaced(self._suspect, fresh.segment)

    def _abandon(self, fresh: SegmentWriter) -> None:
        """Remove a copy that did not succeed; recovery knows it if that fails too."""
        fresh.close()
        try:
            self._files.unlink(fresh.segment.path)
        except OSError as error:
            self.health.last = str(error)

    def _note_failed_write(self, error: OSError) -> None:
        self.health.write_errors += 1
        self.health.last = str(error)

    def _note_failed_fsync(self, error: OSError) -> None:
        self.health.fsync_errors += 1
        self.health.last = str(error)
        _LOG.error("the spool's disk refuses to sync: %s", error)

    def __str__(self) -> str:
        return self.health.last or "no error"

    def close(self) -> None:
        """Close the active segment as it is."""
        self.seal()
