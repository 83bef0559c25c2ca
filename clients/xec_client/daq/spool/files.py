"""The file layer: every operation of the spool on the disk goes through here.

Tests put another disk in its place, one that fails at the N-th operation, is killed, loses its
power or hangs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

_PRIVATE: Final = 0o600


class Files(Protocol):
    """What the spool asks of a disk; each operation may raise OSError."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, if they are missing."""
        ...

    def list(self, folder: Path) -> list[str]:
        """The names in a folder."""
        ...

    def size(self, path: Path) -> int:
        """Bytes of a file."""
        ...

    def read(self, path: Path) -> bytes:
        """A whole file."""
        ...

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on."""
        ...

    def create(self, path: Path) -> int:
        """A new file to be written: its descriptor; FileExistsError if there is one already."""
        ...

    def open(self, path: Path) -> int:
        """An existing file to be read and written: its descriptor."""
        ...

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file."""
        ...

    def fsync(self, fd: int) -> None:
        """Make a file's content durable."""
        ...

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in the same folder."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file; none there is no error."""
        ...

    def fsync_folder(self, folder: Path) -> None:
        """Make a folder's names durable."""
        ...


class DiskFiles:
    """The operating system's files."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, for the owner alone."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def list(self, folder: Path) -> list[str]:
        """The names in a folder."""
        return [path.name for path in folder.iterdir()]

    def size(self, path: Path) -> int:
        """Bytes of a file."""
        return path.stat().st_size

    def read(self, path: Path) -> bytes:
        """A whole file."""
        return path.read_bytes()

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on."""
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def create(self, path: Path) -> int:
        """A new file to be written."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)

    def open(self, path: Path) -> int:
        """An existing file to be read and written."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data`; the system may take it in pieces."""
        done = os.pwrite(fd, data, offset)
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file."""
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        """Make a file's content durable."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def fsync_folder(self, folder: Path) -> None:
        """Make a folder's names durable."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def publish(files: Files, path: Path, content: bytes) -> None:
    """Write a new file under a temporary name, sync it, give it its name, sync the folder.

    Whoever finds the name therefore finds the whole content, after a power cut too.

    Raises:
        OSError: the disk failed; the name does not exist then, or holds the whole content.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    files.unlink(temporary)
    fd = files.create(temporary)
    try:
        files.write_at(fd, content, 0)
        files.fsync(fd)
    finally:
        files.close(fd)
    files.rename(temporary, path)
    files.fsync_folder(path.parent)


TEMPORARY: Final = ".part"
"""Ending of files that are not whole yet; recovery removes them."""
