"""The spool as a source and a consumer see it: `offer` never waits, a thread does the writing.

The source's thread only copies an event's id into mapped memory and its reference into a bounded
queue. Where queue and disk are full, or the disk hangs, the id goes into the gap ledger instead.
"""

from __future__ import annotations

import errno
import logging
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Final, Self

from xec.errors import FileError, UsageError
from xec_client.daq.spool.accounting import Accounting
from xec_client.daq.spool.files import DiskFiles, Files, publish
from xec_client.daq.spool.gap_recorder import GapRecorder
from xec_client.daq.spool.gap_table import GapRange, GapReason
from xec_client.daq.spool.handover import Handover, path_for, read_remains
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.log_writer import DiskHealth
from xec_client.daq.spool.ownership import Ownership
from xec_client.daq.spool.settings import MAX_PAYLOAD_BYTES, SpoolSettings
from xec_client.daq.spool.store import Settlement, Spooled, Store, Watermarks

_LOG = logging.getLogger(__name__)
_ID: Final = "spool.id"


def _why(error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return "it is no folder"
    return error.strerror or str(error)


class DiskState(Enum):
    """What the writer thread is at; the value is the reason of gaps that arise meanwhile."""

    WORKING = GapReason.DISK_SLOW
    FULL = GapReason.SPOOL_FULL
    FAILED = GapReason.DISK_FAILED


class Spool:
    """An opened spool with its writer thread.

    `offer` may be called from any thread; `take`, `acknowledge`, `reject` and `rewind` from one.

    Args:
        folder: of the spool; made if it is missing.
        settings: how it lives.
        files: the disk.

    Raises:
        FileError: the spool has another owner, cannot be read or written, or is of a newer version.
    """

    def __init__(
        self, folder: Path, settings: SpoolSettings | None = None, files: Files | None = None
    ) -> None:
        self._settings = settings or SpoolSettings()
        self._files = files or DiskFiles()
        self._wake = Condition()  # guards the queue and what `offer` changes
        self._arrived = Condition()
        self._queue: deque[tuple[EventId, bytes, float]] = deque()
        self._queued_bytes = 0
        self._offered = 0
        self._gap_counts: Counter[GapReason] = Counter()
        self._closing = False
        self._defect: BaseException | None = None
        self.disk = DiskState.WORKING
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owner = Ownership(folder)
        except OSError as error:
            raise FileError(f"The spool {folder} cannot be opened: {_why(error)}.") from error
        try:
            self._open(folder)
        except OSError as error:
            self._owner.release()
            raise FileError(f"The spool {folder} cannot be opened: {_why(error)}.") from error
        except BaseException:
            self._owner.release()
            raise
        self._thread = Thread(target=self._run, name="spool writer", daemon=True)
        self._thread.start()

    def _open(self, folder: Path) -> None:
        """Recover what is on disk, then what was in memory, then begin a new hand-over file."""
        spool_id = self._identity(folder / _ID)
        self._store = Store(self._files, folder, self._settings)
        self._next = self._store.watermarks.accepted + 1
        self._gaps = GapRecorder(self._files, folder, self._settings.gap_slots)
        handover_path = path_for(spool_id, self._settings.handover, folder)
        lost = self._gaps.absorb(read_remains(handover_path), self._next)
        self._lost_in_memory = lost
        self._gap_counts[GapReason.LOST_IN_MEMORY] += lost
        entries = self._settings.memory_events + 1
        self._handover = Handover(handover_path, entries, self._gaps.slots())
        self._gaps.move_to(self._handover)

    def _identity(self, path: Path) -> str:
        """What the hand-over file of this spool is called by, made once."""
        if not path.exists():
            publish(self._files, path, secrets.token_hex(16).encode())
        content = path.read_bytes()
        if not re.fullmatch(rb"[0-9a-f]{32}", content):
            raise FileError(f"{path} is damaged: remove it, and only it, to open the spool.")
        return content.decode()

    # -- the source's side

    def offer(self, event_id: EventId, payload: bytes) -> int | None:
        """Hand an event over, without waiting for anything.

        Returns:
            Its sequence, to be compared with `watermarks`; None: it is in the gap ledger.

        Raises:
            UsageError: the spool is closed.
        """
        now = time.time()
        with self._wake:
            if self._closing:
                raise UsageError("The spool is closed: an event cannot be offered any more.")
            self._offered += 1
            reason = self._refusal(len(payload))
            if reason is not None:
                self._note_gap(event_id, reason, now)
                return None
            sequence, self._next = self._next, self._next + 1
            self._handover.note(sequence, event_id)
            self._queue.append((event_id, payload, now))
            self._queued_bytes += len(payload)
            self._wake.notify()
            return sequence

    def _refusal(self, size: int) -> GapReason | None:
        if size > min(MAX_PAYLOAD_BYTES, self._settings.segment_bytes):
            return GapReason.TOO_LARGE
        full = len(self._queue) >= self._settings.memory_events
        if full or self._queued_bytes + size > self._settings.memory_bytes:
            return self.disk.value
        return None

    def _note_gap(self, event_id: EventId, reason: GapReason, now: float) -> None:
        self._gaps.add(event_id, reason, now)
        self._gap_counts[reason] += 1

    # -- the writer thread

    def _run(self) -> None:
        try:
            while not self._is_done():
                self._step()
        except BaseException as error:
            _LOG.exception("the spool's writer thread ended")
            self._defect = error
            self.disk = DiskState.FAILED

    def _is_done(self) -> bool:
        with self._wake:
            stuck = self.disk is not DiskState.WORKING
            if self._closing and stuck:
                self._give_up_queue()
            is_done = self._closing and not self._queue
        if is_done:
            self._finish()
        return is_done

    def _give_up_queue(self) -> None:
        """Nothing will be written any more: what waits is on record as a gap."""
        now = time.time()
        while self._queue:
            event_id, payload, _ = self._queue.popleft()
            self._queued_bytes -= len(payload)
            self._next -= 1
            self._note_gap(event_id, GapReason.CLOSED, now)

    def _finish(self) -> None:
        try:
            self._store.sync()
        except OSError as error:
            self._store.health.last = str(error)
        self._gaps.flush(self._wake)

    def _step(self) -> None:
        """Wait for work and do some of it."""
        with self._wake:
            if not self._queue and not self._closing:
                due = self._store.seconds_until_due()
                self._wake.wait(self._settings.sync.seconds if due is None else due)
            item = self._queue[0] if self._queue else None
        try:
            if item is not None:
                self.disk = self._write(*item)
            if self._store.is_due():
                self._store.sync()
                self.disk = DiskState.WORKING if item is None else self.disk
        except OSError as error:
            is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            self.disk = DiskState.FULL if is_full else DiskState.FAILED
        self._gaps.flush_if_due(self._wake, self._settings.sync.seconds)
        if self.disk is not DiskState.WORKING:
            self._leave_disk_alone()

    def _leave_disk_alone(self) -> None:
        end = time.monotonic() + self._settings.retry_seconds
        with self._wake:
            while not self._closing and (remaining := end - time.monotonic()) > 0:
                self._wake.wait(remaining)

    def _write(self, event_id: EventId, payload: bytes, handed_over: float) -> DiskState:
        if not self._store.has_room(len(payload)):
            return DiskState.FULL
        self._store.append(event_id, payload, handed_over)
        with self._wake:
            self._queue.popleft()
            self._queued_bytes -= len(payload)
        with self._arrived:
            self._arrived.notify()
        return DiskState.WORKING

    # -- the consumer's side

    def take(self, limit: int, timeout: float = 0.0) -> list[Spooled]:
        """Up to `limit` events in order; waits up to `timeout` seconds for the first one.

        Each is delivered again after a restart, or after `rewind`, until it is acknowledged or
        rejected; it is then marked as repeated.
        """
        end = time.monotonic() + timeout
        while not (taken := self._store.take(limit)):
            remaining = end - time.monotonic()
            if remaining <= 0:
                break
            with self._arrived:
                self._arrived.wait(min(remaining, self._settings.sync.seconds))
        return taken

    def acknowledge(self, ids: Iterable[EventId]) -> int:
        """The sink holds the results of these events durably: how many were waiting for that."""
        return self._store.acknowledge(ids)

    def reject(self, ids: Iterable[EventId], reason: str) -> int:
        """There will be no result of these events; on return that is on record durably.

        Raises:
            OSError: the disk failed; the events stay in the spool.
        """
        return self._store.reject(ids, reason)

    def rewind(self) -> None:
        """Deliver all events that are neither acknowledged nor rejected again."""
        self._store.rewind()

    # -- what is claimed

    @property
    def watermarks(self) -> Watermarks:
        """The last sequence that survives a kill, and the last that survives a power cut."""
        return self._store.watermarks

    @property
    def health(self) -> DiskHealth:
        """What the disk refused."""
        return self._store.health

    @property
    def gaps(self) -> tuple[GapRange, ...]:
        """All ranges of the gap ledger, also those of earlier processes."""
        with self._wake:
            return self._gaps.ranges

    def accounting(self) -> Accounting:
        """Where every event is."""
        # The store first, and not under the lock of `offer`: what is accepted in between still
        # counts as being in memory, and the sum is right.
        snapshot = self._store.snapshot()
        with self._wake:
            return Accounting(
                offered=self._offered,
                carried=snapshot.carried + self._lost_in_memory,
                results=snapshot.settled[Settlement.RESULT],
                rejected=snapshot.settled[Settlement.REJECTED],
                damaged=snapshot.settled[Settlement.DAMAGED],
                spooled=snapshot.backlog,
                in_memory=self._next - 1 - snapshot.marks.accepted,
                gaps=dict(self._gap_counts),
            )

    # -- the end

    def close(self, timeout: float = 30.0) -> None:
        """Write what waits, sync, and let others have the spool.

        What a full or failing disk does not take is in the gap ledger then. A disk that hangs
        longer than `timeout` seconds is left alone; the next opening records what was in memory.

        Raises:
            Exception: the writer thread had ended by a defect; this is it.
        """
        with self._wake:
            already, self._closing = self._closing, True
            self._wake.notify_all()
        if already:
            return
        self._thread.join(timeout)
        if not self._thread.is_alive():
            self._store.close()
            self._handover.close(remove=self._gaps.is_durable and self._defect is None)
            self._gaps.close()
            self._owner.release()
        else:
            _LOG.error("the spool's disk hangs: its writer thread is left behind")
        if self._defect is not None:
            raise self._defect

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
