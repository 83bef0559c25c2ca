"""Which sequences are settled, and the acknowledgement file beside each segment.

An entry of 16 bytes, little endian: sequence u64, reserved u32, CRC32C u32 of the segment's marker
and these. The files are not synced: an acknowledgement lost in a power cut means that an event is
delivered again, which the sink recognises by (run, event).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from xec_client.daq.spool.checksum import crc32c
from xec_client.daq.spool.files import Files
from xec_client.daq.spool.segment import Segment

SUFFIX: Final = ".acks"
_BODY: Final = struct.Struct("<QI")
_CRC: Final = struct.Struct("<I")
ENTRY_BYTES: Final = _BODY.size + _CRC.size


class Settled:
    """The sequences that need no delivery any more: all below `floor`, and some above."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._above: set[int] = set()

    def __contains__(self, sequence: int) -> bool:
        return sequence < self.floor or sequence in self._above

    def open_until(self, end: int) -> int:
        """How many sequences below `end` are not settled."""
        return max(end - self.floor, 0) - len(self._above)

    def add(self, sequence: int) -> bool:
        """Settle a sequence; False: it was settled already."""
        if sequence in self:
            return False
        self._above.add(sequence)
        while self.floor in self._above:
            self._above.remove(self.floor)
            self.floor += 1
        return True


def path_of(segment: Path) -> Path:
    """The acknowledgement file of a segment file."""
    return segment.with_suffix(SUFFIX)


def _encode(sequence: int, marker: bytes) -> bytes:
    body = _BODY.pack(sequence, 0)
    return body + _CRC.pack(crc32c(marker, body))


def decode(data: bytes, marker: bytes) -> Iterator[int]:
    """The sequences of all sound entries; a damaged one means one more delivery, not a loss."""
    for at in range(0, len(data) - ENTRY_BYTES + 1, ENTRY_BYTES):
        (sequence, _) = _BODY.unpack_from(data, at)
        if _encode(sequence, marker) == data[at : at + ENTRY_BYTES]:
            yield sequence


class AcknowledgementFiles:
    """Appends acknowledgements beside the segments.

    Args:
        files: the disk.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._open: dict[int, tuple[int, int]] = {}

    def append(self, segment: Segment, sequences: Iterable[int]) -> None:
        """Write down that these sequences of a segment are settled.

        Raises:
            OSError: the disk failed; they will be delivered again after a restart.
        """
        fd, size = self._open.get(segment.number) or self._reach(segment.path)
        self._open[segment.number] = (fd, size)
        data = b"".join(_encode(sequence, segment.marker) for sequence in sequences)
        self._files.write_at(fd, data, size)
        self._open[segment.number] = (fd, size + len(data))

    def _reach(self, segment: Path) -> tuple[int, int]:
        path = path_of(segment)
        try:
            return self._files.create(path), 0
        except FileExistsError:
            # What a kill cut off is overwritten, so that entries stay in step.
            size = self._files.size(path)
            return self._files.open(path), size - size % ENTRY_BYTES

    def forget(self, segment: Segment) -> None:
        """Close the file of a segment that is going to be removed."""
        opened = self._open.pop(segment.number, None)
        if opened is not None:
            self._files.close(opened[0])

    def close(self) -> None:
        """Close all files."""
        for fd, _ in self._open.values():
            self._files.close(fd)
        self._open.clear()
