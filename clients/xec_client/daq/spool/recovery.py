"""What is left on disk when a spool is opened, whatever ended it the last time.

Torn tails are cut; damage is reported and kept aside; segments written anew after a failed fsync
take the place of those that failed; files that are not whole are removed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xec_client.daq.spool import acknowledged
from xec_client.daq.spool.acknowledged import Settled
from xec_client.daq.spool.files import TEMPORARY, Files
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.quarantine import DamageReport
from xec_client.daq.spool.record import MARKER_BYTES, Damage, Entry, Head, Scan, head_at, scan
from xec_client.daq.spool.segment import DATA_START, SUFFIX, Segment, decode_header

SEGMENTS: Final = "segments"


@dataclass(frozen=True, slots=True)
class Finding:
    """Damage in a segment, with the bytes to be kept aside, and the sequences that are lost."""

    report: DamageReport
    damaged: bytes
    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recovered:
    """A spool's content as it was found.

    Args:
        segments: in order, each sequence in one of them.
        settled: sequences that need no delivery, damaged ones included.
        next_sequence: for the next event.
        next_number: for the next segment.
        findings: damage, also what was reported before.
        patches: events that are missing in the last segment and were found in an older copy.
        leftovers: files whose events, if any, are in `segments` too. One may be the only durable
            copy: they go when the end of the last segment has been written anew.
        torn: bytes at the ends of segments that a kill or a power cut left unfinished.
    """

    segments: list[Segment]
    settled: Settled
    next_sequence: int
    next_number: int
    findings: tuple[Finding, ...]
    patches: dict[int, Entry]
    leftovers: tuple[Path, ...]
    torn: int


@dataclass(frozen=True, slots=True)
class _Swallowed:
    """Damage, its bytes, and the sequences that were in it."""

    damage: Damage
    content: bytes
    sequences: range


@dataclass(slots=True)
class _Piece:
    """A segment file that was read; `segment` has its sequences, damaged ones as missing."""

    segment: Segment
    length: int
    damage: list[_Swallowed]
    acknowledged: set[int]


def read_pieces(files: Files, folder: Path) -> list[_Piece]:
    """All segments of a folder in order, as they are on disk.

    Raises:
        OSError: the disk failed.
        FileError: a segment is of a newer version.
    """
    names = sorted(name for name in files.list(folder) if name.endswith(SUFFIX))
    pieces: list[_Piece] = []
    for name in names:
        expected = pieces[-1].segment.next if pieces else 1
        pieces.append(_read_piece(files, folder / name, expected))
    return pieces


def _read_piece(files: Files, path: Path, expected: int) -> _Piece:
    data = files.read(path)
    header, both_sound = decode_header(data, path.name)
    if header is None:
        # Both copies are damaged: the first record, if it is sound, knows what they said.
        marker = data[DATA_START : DATA_START + MARKER_BYTES]
        head = head_at(data, DATA_START, marker) if len(marker) == MARKER_BYTES else None
        first = expected if head is None else head.sequence
    else:
        marker, first = header.marker, header.first_sequence
    found = scan(data, marker, DATA_START) if len(marker) == MARKER_BYTES else Scan((), (), 0)
    segment = Segment(path, int(path.stem), marker, first)
    swallowed = _index(segment, found)
    if not both_sound:
        header_damage = Damage(0, min(DATA_START, len(data)), ())
        swallowed.insert(0, (header_damage, range(first, first)))
    damage = [
        _Swallowed(bad, data[bad.offset : bad.offset + bad.size], lost) for bad, lost in swallowed
    ]
    beside = path.parent / acknowledged.path_of(path).name
    has_acks = beside.name in files.list(path.parent)
    sequences = acknowledged.decode(files.read(beside), marker) if has_acks else ()
    # Of a record that a power cut took, the number is given anew; its acknowledgement may be left.
    own = {sequence for sequence in sequences if segment.first <= sequence < segment.next}
    return _Piece(segment, len(data), damage, own)


def _index(segment: Segment, found: Scan) -> list[tuple[Damage, range]]:
    """Enter the records into the segment; the damage with the sequences that it swallowed."""
    damage = list(found.damage)
    swallowed: list[tuple[Damage, range]] = []
    for offset, head in found.records:
        start = segment.next
        _miss(segment, head.sequence)
        if damage and damage[0].offset < offset:
            swallowed.append((damage.pop(0), range(start, segment.next)))
        segment.add(offset, head.size, head.id)
        segment.size = offset + head.size
    for rest in damage:
        # Nothing behind it says how many records it was: those whose header survived, at least 1.
        start = segment.next
        known = max((head.sequence for head in rest.heads), default=start)
        _miss(segment, known + 1)
        swallowed.append((rest, range(start, segment.next)))
    segment.size = max(found.end, DATA_START)
    return swallowed


def _miss(segment: Segment, until: int) -> None:
    while segment.next < until:
        segment.add_missing()


def recover(files: Files, spool: Path) -> Recovered:
    """Bring a spool's segments into a state that can be gone on with.

    Raises:
        OSError: the disk failed; recovering again is safe.
        FileError: a segment is of a newer version.
    """
    folder = spool / SEGMENTS
    for place in (spool, folder):
        for name in files.list(place):
            if name.endswith(TEMPORARY):
                files.unlink(place / name)
    pieces = read_pieces(files, folder)
    next_number = 1 + max((piece.segment.number for piece in pieces), default=0)
    settled_by_file = set[int]().union(*(piece.acknowledged for piece in pieces))
    patches = _patches(files, pieces)
    kept = without_copies(pieces)
    findings = _findings(kept, patches)
    # A segment that never got a record only says what the next sequence is.
    kept = [piece for piece in kept if piece.segment.offsets] or kept[-1:]
    leftovers = _others(files, folder, {piece.segment.path.stem for piece in kept})
    torn = sum(_finish(files, piece) for piece in kept)
    files.fsync_folder(folder)
    segments = [piece.segment for piece in kept]
    settled = Settled(segments[0].first if segments else 1)
    for sequence in sorted(settled_by_file):
        settled.add(sequence)
    next_sequence = segments[-1].next if segments else 1
    return Recovered(
        segments, settled, next_sequence, next_number, findings, patches, leftovers, torn
    )


def without_copies(pieces: list[_Piece]) -> list[_Piece]:
    """Each sequence in one segment only: the newest that has it.

    After a failed fsync, and when a spool is opened, what may not be durable is written again into
    a new segment. A kill or a power cut amidst that leaves a copy that has less than the first one,
    which then stays.
    """
    kept = _without_incomplete(pieces)
    limit: int | None = None
    for piece in reversed(kept):
        if limit is not None:
            piece.segment.cut(limit)
            piece.damage = [
                _Swallowed(bad.damage, bad.content, range(lost.start, min(lost.stop, limit)))
                for bad in piece.damage
                if (lost := bad.sequences).start < limit or not lost
            ]
        limit = min(piece.segment.first, limit or piece.segment.first)
    return [piece for piece in kept if piece is kept[-1] or len(piece.segment.offsets)]


def _without_incomplete(pieces: list[_Piece]) -> list[_Piece]:
    kept = list(pieces)
    while len(kept) > 1 and _is_incomplete_copy(kept[-1].segment, kept[:-1]):
        kept.pop()
    return kept


def _patches(files: Files, pieces: list[_Piece]) -> dict[int, Entry]:
    """Events of the last segment that are sound in an older copy only: parts of each survived."""
    if not pieces:
        return {}
    *earlier, last = (piece.segment for piece in _without_incomplete(pieces))
    found: dict[int, Entry] = {}
    for sequence in range(last.first, last.next):
        if not last.is_missing(sequence):
            continue
        for segment in reversed(earlier):
            if segment.first <= sequence < segment.next and not segment.is_missing(sequence):
                entry = segment.read(files, sequence)
                if entry is not None:
                    found.setdefault(sequence, entry)
    return found


def _is_incomplete_copy(last: Segment, earlier: list[_Piece]) -> bool:
    before = max((piece.segment for piece in earlier), key=lambda segment: segment.next)
    if not last.first < before.next >= last.next:
        return False
    copied = range(max(last.first, before.first), last.next)
    if any(before.is_missing(sequence) for sequence in copied):
        return False
    return last.next < before.next or any(last.is_missing(sequence) for sequence in copied)


def _others(files: Files, folder: Path, stems: set[str]) -> tuple[Path, ...]:
    """Copies that are not needed, and acknowledgements without a segment."""
    names = sorted(files.list(folder), reverse=True)
    return tuple(folder / name for name in names if Path(name).stem not in stems)


def _findings(pieces: list[_Piece], patches: dict[int, Entry]) -> tuple[Finding, ...]:
    """Damage inside the segments, and sequences that are missing between them."""
    findings = []
    for row, piece in enumerate(pieces):
        segment = piece.segment
        for bad in piece.damage:
            place, heads = bad.damage.offset, bad.damage.heads
            lost = tuple(sequence for sequence in bad.sequences if sequence not in patches)
            findings.append(_finding(segment, place, bad.content, heads, lost))
        after = pieces[row + 1].segment.first if row + 1 < len(pieces) else segment.next
        if segment.next < after:
            start = segment.next
            _miss(segment, after)
            lost = tuple(range(start, after))
            findings.append(_finding(segment, segment.size, b"", (), lost))
    return tuple(findings)


def _finding(
    segment: Segment, offset: int, damaged: bytes, heads: tuple[Head, ...], lost: tuple[int, ...]
) -> Finding:
    ids: tuple[EventId, ...] = tuple(head.id for head in heads if head.sequence in lost)
    unreadable = len(lost) - len(ids)
    name = segment.path.stem
    report = DamageReport(name, offset, len(damaged), ids, unreadable, time.time())
    return Finding(report, damaged, lost)


def _finish(files: Files, piece: _Piece) -> int:
    """Cut the torn tail, and sync what a kill left in the page cache: the bytes cut."""
    torn = max(piece.length - piece.segment.size, 0)
    fd = files.open(piece.segment.path)
    try:
        if torn:
            files.truncate(fd, piece.segment.size)
        files.fsync(fd)
    finally:
        files.close(fd)
    return torn
