"""Ranges of events that were not kept, in a table of fixed size.

A slot has two copies of 64 bytes, written in turn, so that a slot whose writing was cut off still
holds what it held before. Little endian: count u64, first run i64, first event i64, last run i64,
last event i64, first time f64, last time f64, reason u32, CRC32C u32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from xec_client.daq.spool.checksum import crc32c
from xec_client.daq.spool.ids import EventId

_BODY: Final = struct.Struct("<QqqqqddI")
_CRC: Final = struct.Struct("<I")
COPY_BYTES: Final = _BODY.size + _CRC.size
SLOT_BYTES: Final = 2 * COPY_BYTES


class GapReason(IntEnum):
    """Why events were not kept."""

    SPOOL_FULL = 1  # memory is full, and so is the spool or its disk
    DISK_FAILED = 2  # memory is full, and the disk refuses to write
    DISK_SLOW = 3  # memory is full, and the disk has not kept up, or hangs
    TOO_LARGE = 4  # larger than any event may be
    LOST_IN_MEMORY = 5  # still in memory when the process was killed
    CLOSED = 6  # the disk would not take it before the spool was closed


@dataclass(frozen=True, slots=True)
class GapRange:
    """Events that were not kept.

    Args:
        first: smallest id of the range.
        last: largest id of the range.
        count: how many events; fewer than the ids between where the table had no slot left.
        reason: why.
        since: Unix seconds of the first.
        until: Unix seconds of the last.
    """

    first: EventId
    last: EventId
    count: int
    reason: GapReason
    since: float
    until: float

    @property
    def is_exact(self) -> bool:
        """Whether every id between first and last is meant."""
        same_run = self.first.run == self.last.run
        return same_run and self.count == self.last.event - self.first.event + 1

    def extended(self, event_id: EventId, time: float) -> GapRange:
        """The range with one more event."""
        first, last = min(self.first, event_id), max(self.last, event_id)
        return GapRange(first, last, self.count + 1, self.reason, self.since, time)


class Buffer(Protocol):
    """Bytes that can be read and written in place, such as a bytearray or a mapped file."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice) -> bytes | bytearray: ...
    def __setitem__(self, where: slice, value: bytes) -> None: ...


def encode_copy(gap: GapRange) -> bytes:
    """One copy of a slot."""
    body = _BODY.pack(gap.count, *gap.first, *gap.last, gap.since, gap.until, gap.reason)
    return body + _CRC.pack(crc32c(body))


def _decode(copy: bytes) -> GapRange | None:
    if _CRC.pack(crc32c(copy[: _BODY.size])) != copy[_BODY.size :]:
        return None
    count, run, event, last_run, last_event, since, until, reason = _BODY.unpack_from(copy)
    if count == 0:
        return None
    first, last = EventId(run, event), EventId(last_run, last_event)
    return GapRange(first, last, count, GapReason(reason), since, until)


def decode_slot(slot: bytes) -> GapRange | None:
    """The newer of the two copies that are sound; a range only ever grows."""
    return _newer(slot)[0]


def spare_copy(slot: bytes) -> int:
    """Which copy, 0 or 1, can be written without losing what the slot holds."""
    return 1 - _newer(slot)[1]


def _newer(slot: bytes) -> tuple[GapRange | None, int]:
    copies = (_decode(slot[:COPY_BYTES]), _decode(slot[COPY_BYTES:SLOT_BYTES]))
    counts = [copy.count if copy else 0 for copy in copies]
    row = int(counts[1] > counts[0])
    return copies[row], row


class GapTable:
    """Ranges in a buffer of slots; adding one more event never needs more room.

    Args:
        buffer: the slots, as they were left or zero.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._slots = len(buffer) // SLOT_BYTES
        self.ranges: list[GapRange] = []
        for number in range(self._slots):
            gap = decode_slot(self.slot(number))
            if gap is not None:
                self._put(len(self.ranges), gap)

    def __iter__(self) -> Iterator[GapRange]:
        return iter(self.ranges)

    def slot(self, number: int) -> bytes:
        """The bytes of a slot."""
        return bytes(self._buffer[number * SLOT_BYTES : (number + 1) * SLOT_BYTES])

    def merge(self, number: int, gap: GapRange | None) -> None:
        """Take a slot's range from another copy of the table, if it says more."""
        if gap is None or number > len(self.ranges) or number >= self._slots:
            return
        if number == len(self.ranges) or gap.count > self.ranges[number].count:
            self._put(number, gap)

    def add(self, event_id: EventId, reason: GapReason, time: float) -> int:
        """Note an event that was not kept: the slot that changed.

        The event lengthens the last range if it follows it for the same reason; else it begins a
        new one. Without a slot left it widens the last range, whose count stays right.
        """
        last = self.ranges[-1] if self.ranges else None
        if last is not None:
            follows = last.is_exact and last.last.is_followed_by(event_id)
            if (follows and last.reason is reason) or len(self.ranges) == self._slots:
                return self._put(len(self.ranges) - 1, last.extended(event_id, time))
        return self._put(len(self.ranges), GapRange(event_id, event_id, 1, reason, time, time))

    def _put(self, number: int, gap: GapRange) -> int:
        if number == len(self.ranges):
            self.ranges.append(gap)
        else:
            self.ranges[number] = gap
        start = number * SLOT_BYTES + (gap.count % 2) * COPY_BYTES
        self._buffer[start : start + COPY_BYTES] = encode_copy(gap)
        return number
