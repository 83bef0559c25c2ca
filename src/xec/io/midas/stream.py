"""The bytes of a MIDAS file in order, decompressed, with bounded memory, as far as they are there.

Plain reads are used in place of a memory map, which would kill the process if the file shrank.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from xec.errors import FileError
from xec.io.midas.compression import (
    DECOMPRESSION_ERRORS,
    Compression,
    Decompressor,
    midas_suffix,
)

PIECE: Final = 1 << 20
"""Bytes that are held at a time; events within a piece are views of it."""

_INPUT: Final = 1 << 16  # bytes of a compressed file that are read at a time
_RECENT: Final = 10.0  # seconds; a file that changed later than that may still be written


class Pieces:
    """A file as pieces of at most 1 MiB, decompressed; empty ones while there is no more.

    A file may hold several compressed members one after the other, and may grow.

    Raises:
        FileError: the file is missing, no file, or of a name that is not of MIDAS.
    """

    def __init__(self, path: Path) -> None:
        compression = midas_suffix(path)
        if compression is None:
            endings = ", ".join(f".mid{each.value}" for each in Compression)
            raise FileError(
                f"{path} is not named like a MIDAS file, which ends in one of {endings}."
            )
        if path.exists() and not path.is_file():
            raise FileError(f"{path} is no regular file: name a MIDAS file.")
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise FileError(f"{path} does not exist.") from error
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror}.") from error
        self.path = path
        self.compression: Final = compression
        self._input = b""
        self._member: Decompressor | None = None
        self.consumed = 0
        """Bytes of the file that were read, before decompression."""
        self._size_at_opening = self._size()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def within_member(self) -> bool:
        """Whether a compressed member has begun and not ended."""
        return self._member is not None

    @property
    def growing(self) -> bool:
        """Whether the file grew since it was opened, or changed in the last 10 s."""
        changed = os.fstat(self._file.fileno()).st_mtime
        return self._size() > self._size_at_opening or abs(time.time() - changed) < _RECENT

    def read(self) -> bytes:
        """The next piece; empty where the file ends at present.

        Raises:
            FileError: the compression is damaged, the disk fails, or the file shrank.
        """
        if self.compression is Compression.NONE:
            return self._raw(PIECE)
        while True:
            if self._member is None:
                self._input = self._input or self._raw(_INPUT)
                if not self._input:
                    return b""
                self._refuse_foreign()
                self._member = self.compression.decompressor()
                assert self._member is not None
            data = b""
            if self._member.needs_input:
                data, self._input = self._input or self._raw(_INPUT), b""
                if not data:
                    return b""
            out = self._decompressed(self._member, data)
            if self._member.eof:
                self._input = self._member.unused_data or b""
                self._member = None
            if out:
                return out

    def _raw(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise FileError(f"{self.path} cannot be read: {error.strerror}.") from error
        if not data and self._size() < self.consumed:
            raise FileError(f"{self.path} shrank while it was read: read it again.")
        self.consumed += len(data)
        return data

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _refuse_foreign(self) -> None:
        """Compare what begins here with the beginning of a member, as far as it is there."""
        magic = self.compression.magic
        if self._input[: len(magic)] != magic[: len(self._input)]:
            at_start = self.consumed == len(self._input)
            place = "is not" if at_start else "is damaged: not all of it is"
            raise FileError(
                f"{self.path} {place} compressed as its name says ({self.compression.value}): "
                "rename it, or copy it again."
            )

    def _decompressed(self, member: Decompressor, data: bytes) -> bytes:
        try:
            return member.decompress(data, PIECE)
        except DECOMPRESSION_ERRORS as error:
            raise FileError(
                f"{self.path} is damaged near its byte {self.consumed} and cannot be decompressed "
                "further: copy it again."
            ) from error


class ByteStream:
    """The next bytes of a file; those that are not there yet may come later."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    @property
    def left(self) -> int:
        """Bytes that were read and not taken."""
        return len(self._rest)

    def peek(self, size: int) -> memoryview:
        """The next bytes without taking them, fewer where the file ends at present.

        Memory is bounded by what is there, not by what is asked for.

        Raises:
            FileError: as `Pieces.read`.
        """
        if len(self._rest) < size:
            # One growing buffer: a list of tiny pieces would take far more than their bytes.
            gathered = bytearray(self._rest)
            while len(gathered) < size and (piece := self._pieces.read()):
                gathered += piece
            self._rest = memoryview(gathered).toreadonly()
        return self._rest[:size]

    def skip(self, size: int) -> None:
        """Take bytes that were seen."""
        self._rest = self._rest[size:]
