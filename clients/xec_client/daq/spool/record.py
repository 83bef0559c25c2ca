"""One event in a segment: its bytes, and the search for records among damaged ones.

Little endian. Header of 52 bytes: marker (8, random, the same in all records of a segment),
payload length u32, sequence u64, run i64, event i64, time f64 (Unix seconds of the hand-over),
reserved u32, CRC32C u32 of these; then the payload; then CRC32C u32 of header and payload.

A record is found again behind damage by its marker. That no payload can imitate: it was drawn at
random for this segment.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from xec_client.daq.spool.checksum import crc32c
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.settings import MAX_PAYLOAD_BYTES

_HEAD: Final = struct.Struct("<8sIQqqdI")
_CRC: Final = struct.Struct("<I")
MARKER_BYTES: Final = 8
HEAD_BYTES: Final = _HEAD.size + _CRC.size
OVERHEAD: Final = HEAD_BYTES + _CRC.size
"""Bytes of a record beyond its payload."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its place in the order of hand-over.

    Args:
        sequence: counts the events that this spool accepted, from 1.
        id: run and event.
        time: Unix seconds of the hand-over.
        payload: the event's bytes.
    """

    sequence: int
    id: EventId
    time: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """A record's header; `size` is the whole record's."""

    sequence: int
    id: EventId
    time: float
    size: int


def encode(entry: Entry, marker: bytes) -> bytes:
    """The bytes of a record."""
    run, event = entry.id
    size = len(entry.payload)
    head = _HEAD.pack(marker, size, entry.sequence, run, event, entry.time, 0)
    head += _CRC.pack(crc32c(head))
    return b"".join((head, entry.payload, _CRC.pack(crc32c(head, entry.payload))))


def head_at(data: bytes, offset: int, marker: bytes) -> Head | None:
    """The header at `offset`, or None if there is no intact one."""
    head = data[offset : offset + HEAD_BYTES]
    if len(head) < HEAD_BYTES:
        return None
    found, size, sequence, run, event, time, _ = _HEAD.unpack_from(head)
    sound = _matches(head[: _HEAD.size], b"", head[_HEAD.size :])
    if not sound or found != marker or size > MAX_PAYLOAD_BYTES:
        return None
    return Head(sequence, EventId(run, event), time, OVERHEAD + size)


def decode(data: bytes, marker: bytes) -> Entry | None:
    """The event of a whole record, or None if a single bit of it is wrong."""
    head = head_at(data, 0, marker)
    if head is None or len(data) != head.size:
        return None
    payload = data[HEAD_BYTES : -_CRC.size]
    if not _matches(data[:HEAD_BYTES], payload, data[-_CRC.size :]):
        return None
    return Entry(head.sequence, head.id, head.time, payload)


def _matches(head: bytes, payload: bytes, stored: bytes) -> bool:
    return _CRC.pack(crc32c(head, payload)) == stored


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no sound record.

    Args:
        offset: where they begin.
        size: how many.
        heads: intact headers among them, of records whose payload is damaged.
    """

    offset: int
    size: int
    heads: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment's bytes hold.

    Args:
        records: place and header of each sound record.
        damage: what lies between and behind them, and was not cut off while being written.
        end: where the last whole record or damage ends; what follows is a torn tail.
    """

    records: tuple[tuple[int, Head], ...]
    damage: tuple[Damage, ...]
    end: int


def scan(data: bytes, marker: bytes, start: int) -> Scan:
    """Find all sound records from `start` on; what else is there is damage or a torn tail."""
    records: list[tuple[int, Head]] = []
    damage: list[Damage] = []
    at = start
    while at < len(data):
        head = head_at(data, at, marker)
        if head is not None and decode(data[at : at + head.size], marker) is not None:
            records.append((at, head))
            at += head.size
            continue
        if _is_torn(data, at, head, marker):
            break
        after = _next_record(data, at + 1, marker)
        damage.append(Damage(at, after - at, _heads(data, at, after, marker)))
        at = after
    return Scan(tuple(records), tuple(damage), at)


def _is_torn(data: bytes, at: int, head: Head | None, marker: bytes) -> bool:
    """Whether the file ends before this record does: so ends a write that was cut off."""
    if head is not None:
        return at + head.size > len(data) and _next_record(data, at + 1, marker) == len(data)
    rest = data[at : at + HEAD_BYTES]
    return len(rest) < HEAD_BYTES and rest[:MARKER_BYTES] == marker[: len(rest)]


def _next_record(data: bytes, at: int, marker: bytes) -> int:
    """Where the next sound record begins, or the torn one at the end; else the end of the data."""
    while (at := data.find(marker, at)) >= 0:
        head = head_at(data, at, marker)
        if head is not None and decode(data[at : at + head.size], marker) is not None:
            return at
        at += 1
    return len(data)


def _heads(data: bytes, start: int, end: int, marker: bytes) -> tuple[Head, ...]:
    heads = []
    at = start
    while (at := data.find(marker, at, end)) >= 0:
        head = head_at(data, at, marker)
        if head is not None:
            heads.append(head)
        at += 1
    return tuple(heads)
