"""The gap table in memory and its copy on disk, kept together."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from threading import Condition

from xec_client.daq.spool.files import Files
from xec_client.daq.spool.gap_ledger import GapLedger
from xec_client.daq.spool.gap_table import SLOT_BYTES, Buffer, GapRange, GapReason, GapTable
from xec_client.daq.spool.handover import Remains
from xec_client.daq.spool.ids import EventId

_LOG = logging.getLogger(__name__)


class GapRecorder:
    """Notes gaps at once in memory, and on disk when the writer thread gets to it.

    Args:
        files: the disk.
        folder: the spool.
        slots: of a new ledger.

    Raises:
        OSError: the disk failed.
        FileError: the ledger is of another version.
    """

    def __init__(self, files: Files, folder: Path, slots: int) -> None:
        self._ledger = GapLedger(files, folder, slots)
        self._buffer: Buffer = bytearray(self._ledger.slots * SLOT_BYTES)
        self._table = GapTable(self._buffer)
        self._changed: set[int] = set()
        self._is_sound = True
        self._flushed = 0.0

    @property
    def ranges(self) -> tuple[GapRange, ...]:
        """All ranges."""
        return tuple(self._table.ranges)

    @property
    def is_durable(self) -> bool:
        """Whether the disk has all ranges."""
        return self._is_sound and not self._changed

    def slots(self) -> bytes:
        """The table's bytes."""
        return bytes(self._buffer[0 : len(self._buffer)])

    def absorb(self, remains: Remains, next_sequence: int) -> int:
        """Take over what an earlier process left, durable on return: events lost in memory.

        Args:
            remains: what its hand-over file said.
            next_sequence: events from here on did not reach the disk.

        Raises:
            OSError: the disk failed; absorbing it again is safe.
        """
        remembered = remains.gaps + (None,) * (self._ledger.slots - len(remains.gaps))
        for known, noted in zip(self._ledger.ranges, remembered, strict=False):
            gaps = [gap for gap in (known, noted) if gap is not None]
            if gaps:
                number = len(self._table.ranges)
                self._table.merge(number, max(gaps, key=lambda gap: gap.count))
                self._changed.add(number)
        recorded = [gap for gap in self._table if gap.is_exact]
        lost = 0
        for sequence, event_id in remains.waiting:
            if sequence < next_sequence or any(g.first <= event_id <= g.last for g in recorded):
                continue
            self.add(event_id, GapReason.LOST_IN_MEMORY, time.time())
            lost += 1
        if self._changed:
            self._ledger.write({number: self._table.ranges[number] for number in self._changed})
            self._changed.clear()
        return lost

    def move_to(self, buffer: Buffer) -> None:
        """Go on in another buffer, which holds the same bytes."""
        self._buffer = buffer
        self._table = GapTable(buffer)

    def add(self, event_id: EventId, reason: GapReason, now: float) -> None:
        """Note an event that was not kept."""
        self._changed.add(self._table.add(event_id, reason, now))

    def flush_if_due(self, guard: Condition, seconds: float) -> None:
        """Bring changes to the disk, at most once in so many seconds."""
        if time.monotonic() - self._flushed >= seconds:
            self.flush(guard)

    def flush(self, guard: Condition) -> None:
        """Bring changes to the disk; what it refuses stays in memory and is tried again.

        Args:
            guard: held while the table is read, not while the disk is used.
        """
        with guard:
            if self.is_durable:
                return
            changed = {number: self._table.ranges[number] for number in self._changed}
            everything = b"" if self._is_sound else self.slots()
        try:
            if self._is_sound:
                self._ledger.write(changed)
            else:
                self._ledger.renew(everything)
        except OSError as error:
            _LOG.error("the gap ledger cannot be written: %s", error)
            self._is_sound = False
            return
        self._flushed = time.monotonic()
        self._is_sound = True
        with guard:
            # A slot that changed again meanwhile stays to be written.
            self._changed -= {n for n, gap in changed.items() if gap == self._table.ranges[n]}

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()
