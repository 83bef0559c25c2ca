"""A segment of the spool: its header, its name, where its records are, and how one is written.

A segment is published with its header already durable, so that a name means a readable file. The
header stands twice in the first 128 bytes, each copy with its checksum.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xec.errors import FileError
from xec_client.daq.spool.checksum import crc32c
from xec_client.daq.spool.files import Files, publish
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.record import Entry, decode, encode

FORMAT_VERSION: Final = 1
SUFFIX: Final = ".seg"
_MAGIC: Final = b"XECSPOOL"
_HEADER: Final = struct.Struct("<8sH6xQ8sd20x")
_CRC: Final = struct.Struct("<I")
_COPY_BYTES: Final = _HEADER.size + _CRC.size
DATA_START: Final = 2 * _COPY_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself.

    Args:
        version: of the format.
        first_sequence: of its first record.
        marker: 8 random bytes that begin each of its records.
        created: Unix seconds.
    """

    version: int
    first_sequence: int
    marker: bytes
    created: float

    def encode(self) -> bytes:
        """Both copies."""
        fields = (_MAGIC, self.version, self.first_sequence, self.marker, self.created)
        body = _HEADER.pack(*fields)
        return 2 * (body + _CRC.pack(crc32c(body)))


def decode_header(data: bytes, name: str) -> tuple[Header | None, bool]:
    """The header from the first sound copy (None: both are damaged), and whether both are sound.

    Raises:
        FileError: it was written by a newer version.
    """
    copies = [data[at : at + _COPY_BYTES] for at in (0, _COPY_BYTES)]
    sound = [
        copy
        for copy in copies
        if len(copy) == _COPY_BYTES
        and copy.startswith(_MAGIC)
        and _CRC.pack(crc32c(copy[: _HEADER.size])) == copy[_HEADER.size :]
    ]
    if not sound:
        return None, False
    _, version, first, marker, created = _HEADER.unpack_from(sound[0])
    if version != FORMAT_VERSION:
        raise FileError(
            f"Spool segment {name} has format version {version}, this program reads "
            f"{FORMAT_VERSION}: empty the spool with the version that wrote it."
        )
    return Header(version, first, marker, created), len(sound) == len(copies)


def name_of(number: int) -> str:
    """File name of segment `number`; names sort as numbers do."""
    return f"{number:016d}{SUFFIX}"


@dataclass(slots=True)
class Segment:
    """Where the records of one segment are; sequences are consecutive.

    Args:
        path: of the file.
        number: by which segments are ordered.
        marker: of its records.
        first: sequence of the first record.
        size: bytes of whole records and header.
        offsets: place of each record; 0: damaged, not to be read.
        sizes: bytes of each record.
        runs: of each record.
        events: of each record.
    """

    path: Path
    number: int
    marker: bytes
    first: int
    size: int = DATA_START
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    runs: array[int] = field(default_factory=lambda: array("q"))
    events: array[int] = field(default_factory=lambda: array("q"))

    @property
    def next(self) -> int:
        """The sequence after its last record."""
        return self.first + len(self.offsets)

    def add(self, offset: int, size: int, event_id: EventId) -> None:
        """Note the next record."""
        self.offsets.append(offset)
        self.sizes.append(size)
        self.runs.append(event_id.run)
        self.events.append(event_id.event)

    def add_missing(self) -> None:
        """Note that the next sequence has no readable record."""
        self.add(0, 0, EventId(0, 0))

    def is_missing(self, sequence: int) -> bool:
        """Whether there is no readable record of this sequence."""
        return self.offsets[sequence - self.first] == 0

    def id_of(self, sequence: int) -> EventId:
        """Run and event of a record."""
        row = sequence - self.first
        return EventId(self.runs[row], self.events[row])

    def cut(self, sequence: int) -> None:
        """Forget the records from `sequence` on: a later segment has them."""
        for column in (self.offsets, self.sizes, self.runs, self.events):
            del column[max(sequence - self.first, 0) :]

    def read(self, files: Files, sequence: int) -> Entry | None:
        """The event of a sequence, or None if its bytes are not sound any more.

        Raises:
            OSError: the disk does not give them.
        """
        row = sequence - self.first
        data = files.read_at(self.path, self.offsets[row], self.sizes[row])
        entry = decode(data, self.marker)
        return entry if entry is not None and entry.sequence == sequence else None


class SegmentWriter:
    """Appends records to a segment that is being written.

    Args:
        files: the disk.
        folder: where segments are.
        number: of the new segment.
        header: of the new segment.

    Raises:
        OSError: the disk failed.
    """

    def __init__(self, files: Files, folder: Path, number: int, header: Header) -> None:
        path = folder / name_of(number)
        publish(files, path, header.encode())
        self._files = files
        self._fd = files.open(path)
        self.segment = Segment(path, number, header.marker, header.first_sequence)

    def write(self, entry: Entry) -> tuple[int, int]:
        """Write a record behind the last one: its place and size; `note` makes it count.

        Raises:
            OSError: the disk failed; the record does not count.
        """
        data = encode(entry, self.segment.marker)
        self._files.write_at(self._fd, data, self.segment.size)
        return self.segment.size, len(data)

    def note(self, entry: Entry, offset: int, size: int) -> None:
        """Let a written record count."""
        self.segment.add(offset, size, entry.id)
        self.segment.size = offset + size

    def cut_tail(self) -> None:
        """Cut what a failed write left behind the last record.

        Raises:
            OSError: the disk failed.
        """
        self._files.truncate(self._fd, self.segment.size)

    def fsync(self) -> None:
        """Make the records durable.

        Raises:
            OSError: the disk failed; after that nothing can be said of this file.
        """
        self._files.fsync(self._fd)

    def close(self) -> None:
        """Close the file, synced or not."""
        self._files.close(self._fd)
