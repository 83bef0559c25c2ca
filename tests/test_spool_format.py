"""The format on disk against an independent reader, and what every damaged byte leads to."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support_memory_disk import MemoryDisk
from support_spool import SPOOL, Claims, ids, open_store, payload_of
from xec.errors import FileError
from xec_client.daq.spool import record
from xec_client.daq.spool.checksum import crc32c
from xec_client.daq.spool.contents import read_contents
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.record import Entry, encode
from xec_client.daq.spool.segment import Header, decode_header

EVENTS = ids(20)


def slow_crc32c(data: bytes) -> int:
    """Bit by bit, after RFC 3720: reflected polynomial 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def independent_reader(data: bytes) -> list[tuple[int, EventId, bytes]]:
    """Another implementation of the format's description; it gives up at the first fault."""
    assert data[:8] == b"XECSPOOL"
    assert data[:64] == data[64:128]
    assert struct.unpack("<I", data[60:64])[0] == slow_crc32c(data[:60])
    marker, at, found = data[24:32], 128, []
    while at < len(data):
        size, sequence, run, event = struct.unpack("<IQqq", data[at + 8 : at + 36])
        body = data[at : at + 52 + size]
        assert body[:8] == marker
        assert struct.unpack("<I", body[48:52])[0] == slow_crc32c(body[:48])
        assert data[at + 52 + size : at + 56 + size] == struct.pack("<I", slow_crc32c(body))
        found.append((sequence, EventId(run, event), body[52:]))
        at += 56 + size
    return found


def written(events: list[EventId] = EVENTS, acknowledged: int = 0) -> MemoryDisk:
    disk = MemoryDisk()
    store = open_store(disk)
    for event_id in events:
        store.append(event_id, payload_of(event_id), 1.0)
    store.acknowledge([spooled.id for spooled in store.take(acknowledged)])
    store.sync()
    store.close()
    return disk


def segment_names(disk: MemoryDisk, suffix: str = ".seg") -> list[str]:
    return sorted(name for name in disk.list(SPOOL / "segments") if name.endswith(suffix))


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_the_checksum_is_that_of_rfc_3720(data: bytes, checksum: int) -> None:
    assert crc32c(data[:4], data[4:]) == slow_crc32c(data) == checksum


def test_an_independent_reader_finds_what_was_written() -> None:
    disk = written()
    names = segment_names(disk)
    found = [r for n in names for r in independent_reader(disk.read(SPOOL / "segments" / n))]
    assert len(names) >= 3
    assert found == [(n, i, payload_of(i)) for n, i in enumerate(EVENTS, start=1)]


def damaged_outcome(disk: MemoryDisk) -> tuple[Claims, int, int]:
    """Open a spool: what was delivered, events in quarantine, reports."""
    store, claims = open_store(disk), Claims()
    while claims.deliver(store, 100):
        pass
    store.close()
    damage = read_contents(SPOOL, disk).damage
    return claims, sum(len(report.ids) + report.unreadable for report in damage), len(damage)


def flipped(disk: MemoryDisk, path: Path, at: int, mask: int) -> None:
    disk.folders[path.parent].volatile[path.name].volatile[at] ^= mask


@pytest.mark.parametrize("segment", range(3))
def test_every_damaged_byte_is_reported_and_delivers_nothing_wrong(segment: int) -> None:
    random = Random(segment)
    sound = written()
    path = SPOOL / "segments" / segment_names(sound)[segment]
    for at in range(sound.size(path)):
        disk = written()
        flipped(
            disk, SPOOL / "segments" / segment_names(disk)[segment], at, 1 << random.randrange(8)
        )
        claims, quarantined, reports = damaged_outcome(disk)
        assert claims.altered == []
        assert reports == 1, at
        # Of the header there are two copies; a record's damage takes that record alone.
        assert quarantined == (at >= 128), at
        assert len(claims.delivered) == len(EVENTS) - quarantined
        assert claims.delivered == sorted(claims.delivered)


def test_without_the_checksum_wrong_bytes_would_be_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: the test above sees an altered event."""
    disk = written()
    flipped(disk, SPOOL / "segments" / segment_names(disk)[0], 128 + 52 + 3, 1)
    monkeypatch.setattr(record, "_matches", lambda *_: True)
    assert damaged_outcome(disk)[0].altered == [EVENTS[0]]


def test_damage_found_twice_is_reported_once() -> None:
    disk = written()
    flipped(disk, SPOOL / "segments" / segment_names(disk)[0], 300, 255)
    open_store(disk).close()
    first = read_contents(SPOOL, disk)
    open_store(disk).close()
    assert read_contents(SPOOL, disk) == first
    names = disk.list(SPOOL / "quarantine")
    assert sorted(Path(name).suffix for name in names) == [".bin", ".json"]


def test_both_headers_damaged_and_the_records_are_found_all_the_same() -> None:
    disk = written()
    for at in (3, 67):
        flipped(disk, SPOOL / "segments" / segment_names(disk)[1], at, 255)
    claims, quarantined, reports = damaged_outcome(disk)
    assert (claims.delivered, quarantined, reports) == (EVENTS, 0, 1)


def test_a_whole_segment_of_noise_is_counted_by_its_sequences() -> None:
    disk = written()
    path = SPOOL / "segments" / segment_names(disk)[1]
    count = len(independent_reader(disk.read(path)))
    inode = disk.folders[path.parent].volatile[path.name]
    inode.volatile[:] = Random(1).randbytes(len(inode.volatile))
    claims, quarantined, _ = damaged_outcome(disk)
    assert claims.altered == []
    assert quarantined == count
    assert len(claims.delivered) == len(EVENTS) - count


def test_a_missing_segment_is_counted_by_its_sequences() -> None:
    disk = written()
    path = SPOOL / "segments" / segment_names(disk)[1]
    count = len(independent_reader(disk.read(path)))
    disk.unlink(path)
    _, quarantined, reports = damaged_outcome(disk)
    assert (quarantined, reports) == (count, 1)


def test_a_tail_cut_anywhere_is_no_damage() -> None:
    sound = written()
    path = SPOOL / "segments" / segment_names(sound)[-1]
    size = sound.size(path)
    ends = {128}
    for _, _, payload in independent_reader(sound.read(path)):
        ends.add(max(ends) + 56 + len(payload))
    before = len(EVENTS) - len(ends) + 1
    for cut in range(128, size + 1):
        disk = written()
        path = SPOOL / "segments" / segment_names(disk)[-1]
        del disk.folders[path.parent].volatile[path.name].volatile[cut:]
        claims, quarantined, reports = damaged_outcome(disk)
        whole = before + sum(end <= cut for end in ends) - 1
        assert (claims.delivered, quarantined, reports) == (EVENTS[:whole], 0, 0), cut


def test_damaged_acknowledgements_only_repeat_events() -> None:
    sound = written(acknowledged=3)
    assert damaged_outcome(sound)[0].delivered == EVENTS[3:]
    size = sound.size(SPOOL / "segments" / segment_names(sound, ".acks")[0])
    assert size == 3 * 16
    for at in range(size):
        disk = written(acknowledged=3)
        flipped(disk, SPOOL / "segments" / segment_names(disk, ".acks")[0], at, 4)
        assert damaged_outcome(disk)[0].delivered == sorted({EVENTS[at // 16], *EVENTS[3:]})


def test_a_payload_that_looks_like_records_is_not_taken_for_any() -> None:
    """A spool's bytes inside an event, and damage before them."""
    other = written(ids(5, run=9))
    inner = other.read(SPOOL / "segments" / segment_names(other)[0])
    inner += encode(Entry(2, EventId(9, 9), 1.0, b"not ours"), b"\0" * 8)
    disk = MemoryDisk()
    store = open_store(disk)
    store.append(EventId(1, 1), inner, 1.0)
    store.append(EventId(1, 2), payload_of(EventId(1, 2)), 1.0)
    store.close()
    flipped(disk, SPOOL / "segments" / segment_names(disk)[0], 130, 1)
    claims, quarantined, _ = damaged_outcome(disk)
    assert (claims.delivered, claims.altered, quarantined) == ([EventId(1, 2)], [], 1)


def test_a_newer_version_is_refused_in_one_sentence() -> None:
    disk = written()
    path = SPOOL / "segments" / segment_names(disk)[0]
    inode = disk.folders[path.parent].volatile[path.name]
    inode.volatile[:128] = Header(2, 1, b"12345678", 1.0).encode()
    with pytest.raises(FileError, match=r"has format version 2, this program reads 1: empty"):
        open_store(disk)


def test_a_header_survives_its_own_encoding() -> None:
    header = Header(1, 42, b"12345678", 3.5)
    assert decode_header(header.encode(), "x") == (header, True)
    assert decode_header(header.encode()[:70], "x") == (header, False)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1100), st.binary(min_size=1, max_size=80)),
        min_size=1,
        max_size=6,
    ),
    insert=st.booleans(),
)
def test_recovery_of_arbitrary_damage_delivers_nothing_wrong(
    changes: list[tuple[int, int, bytes]], insert: bool
) -> None:
    disk = written()
    names = segment_names(disk)
    for segment, at, noise in changes:
        content = disk.folders[SPOOL / "segments"].volatile[names[segment]].volatile
        content[at : at if insert else at + len(noise)] = noise
    claims, _, _ = damaged_outcome(disk)
    assert claims.altered == []
    assert claims.delivered == sorted(set(claims.delivered))
    assert set(claims.delivered) <= set(EVENTS)
    again, _, _ = damaged_outcome(disk)
    assert again.delivered == []
