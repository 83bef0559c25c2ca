"""Compression of MIDAS files, by suffix, in both directions and piece by piece."""

from __future__ import annotations

import bz2
import zlib
from enum import Enum
from pathlib import Path
from typing import Final, Protocol, cast

import lz4.frame

_GZIP_FORMAT: Final = 31  # zlib's code for the largest window with a gzip header
_GZIP_LEVEL: Final = 1  # DAQ data: speed before size

DECOMPRESSION_ERRORS: Final = (EOFError, MemoryError, OSError, RuntimeError, ValueError, zlib.error)
"""What the decompressors below raise on a damaged stream."""


class Decompressor(Protocol):
    """Decompresses one member of a file, no more than asked for at a time."""

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether nothing more can be given without more input."""
        ...

    @property
    def unused_data(self) -> bytes | None:
        """What follows the complete member in the input so far."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes; `data` is empty while `needs_input` is False."""
        ...


class Compressor(Protocol):
    """Compresses one member."""

    def compress(self, data: bytes) -> bytes:
        """What is ready so far."""
        ...

    def flush(self) -> bytes:
        """The rest; ends the member."""
        ...


class _Gunzip:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(_GZIP_FORMAT)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # With a full output zlib may hold more of it, although all input is consumed.
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length
        return out


class _Lz4Compressor:
    """lz4's compressor, which writes the header of its frame with the first data."""

    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor(auto_flush=True, content_checksum=True)

    def compress(self, data: bytes) -> bytes:
        head = b"" if self._frame.started() else bytes(self._frame.begin())
        return head + bytes(self._frame.compress(data))

    def flush(self) -> bytes:
        return self.compress(b"") + bytes(self._frame.flush())


class Compression(Enum):
    """How a file is compressed; the values are the suffixes after ``.mid``."""

    NONE = ""
    LZ4 = ".lz4"
    GZIP = ".gz"
    BZIP2 = ".bz2"

    @property
    def magic(self) -> bytes:
        """The first bytes of a member."""
        return {
            Compression.NONE: b"",
            Compression.LZ4: b"\x04\x22\x4d\x18",
            Compression.GZIP: b"\x1f\x8b",
            Compression.BZIP2: b"BZh",
        }[self]

    def decompressor(self) -> Decompressor | None:
        """For one member; None where there is nothing to do."""
        match self:
            case Compression.NONE:
                return None
            case Compression.LZ4:
                return cast(Decompressor, lz4.frame.LZ4FrameDecompressor())
            case Compression.GZIP:
                return _Gunzip()
            case Compression.BZIP2:
                return bz2.BZ2Decompressor()

    def compressor(self) -> Compressor | None:
        """For one member; None where there is nothing to do."""
        match self:
            case Compression.NONE:
                return None
            case Compression.LZ4:
                return _Lz4Compressor()
            case Compression.GZIP:
                return zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_FORMAT)
            case Compression.BZIP2:
                return bz2.BZ2Compressor()


def midas_suffix(path: Path) -> Compression | None:
    """The compression that the name of a MIDAS file tells; None for other names."""
    for compression in Compression:
        if path.name.endswith(f".mid{compression.value}"):
            return compression
    return None
