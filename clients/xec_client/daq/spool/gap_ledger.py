"""The gap ledger on disk: pre-allocated, so that a full disk cannot keep it from being written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from xec.errors import FileError
from xec_client.daq.spool.files import Files, publish
from xec_client.daq.spool.gap_table import (
    COPY_BYTES,
    SLOT_BYTES,
    GapRange,
    decode_slot,
    encode_copy,
    spare_copy,
)

NAME: Final = "gaps.ledger"
_HEADER: Final = b"XECGAPS\x01".ljust(SLOT_BYTES, b"\0")


class GapLedger:
    """Slots of a gap table in a file of fixed size.

    Args:
        files: the disk.
        folder: the spool.
        slots: of a new ledger; an existing one keeps its own.

    Raises:
        OSError: the disk failed, or has no room for the ledger.
        FileError: the file is no gap ledger of this version.
    """

    def __init__(self, files: Files, folder: Path, slots: int) -> None:
        self._files = files
        self._path = path = folder / NAME
        if NAME not in files.list(folder):
            publish(files, path, _HEADER + bytes(slots * SLOT_BYTES))
        self.ranges = read(files, folder)
        self._fd = files.open(path)
        self.slots = files.size(path) // SLOT_BYTES - 1

    def write(self, ranges: dict[int, GapRange]) -> None:
        """Write ranges into their slots, durable on return.

        Of each slot the copy that is not the newer one is written: a power cut amidst it takes
        nothing that was durable.

        Raises:
            OSError: the disk failed; nothing can be said of the file until `renew` succeeds.
        """
        for number, gap in ranges.items():
            start = (number + 1) * SLOT_BYTES
            copy = spare_copy(self._files.read_at(self._path, start, SLOT_BYTES))
            self._files.write_at(self._fd, encode_copy(gap), start + copy * COPY_BYTES)
        self._files.fsync(self._fd)

    def renew(self, slots: bytes) -> None:
        """Write all slots into a new file.

        Raises:
            OSError: the disk failed.
        """
        publish(self._files, self._path, _HEADER + slots)
        self._files.close(self._fd)
        self._fd = self._files.open(self._path)

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._fd)


def read(files: Files, folder: Path) -> list[GapRange | None]:
    """The ranges of a spool's ledger, one per slot; none where there is no ledger.

    Raises:
        FileError: the file is no gap ledger of this version.
    """
    if NAME not in files.list(folder):
        return []
    data = files.read(folder / NAME)
    if not data.startswith(_HEADER):
        raise FileError(
            f"{folder / NAME} is no gap ledger of this version: move it away to begin a new one."
        )
    starts = range(SLOT_BYTES, len(data) - SLOT_BYTES + 1, SLOT_BYTES)
    return [decode_slot(data[start : start + SLOT_BYTES]) for start in starts]
