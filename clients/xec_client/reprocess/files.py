"""The file layer: every write, sync and new name of an output folder goes through here.

Tests put another one in its place, that fails at the N-th operation or is killed there.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, cast


class Files(Protocol):
    """What reprocessing asks of the disk; each operation may raise OSError."""

    def create(self, path: Path) -> BinaryIO:
        """A new file, open for writing and reading, locked until it is closed."""
        ...

    def sync(self, file: BinaryIO) -> None:
        """Make the content of an open file durable."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; FileExistsError if the name is taken."""
        ...

    def unlink(self, path: Path) -> None:
        """Take a name away; none there is no error."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        ...

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file, created if missing, durably."""
        ...

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file, durably."""
        ...


class DiskFiles:
    """The operating system's files."""

    def create(self, path: Path) -> BinaryIO:
        """A new file, locked, so that `is_abandoned` can tell whether its writer lives."""
        file = cast(BinaryIO, path.open("x+b"))
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file

    def sync(self, file: BinaryIO) -> None:
        """Flush and fsync."""
        file.flush()
        os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> None:
        """A hard link: of two that come at the same time, one gets the name."""
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """The fsync of the folder."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def append(self, path: Path, data: bytes) -> None:
        """Write and fsync; the system may take the data in pieces."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, path: Path, size: int) -> None:
        """Cut and fsync."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)


def is_abandoned(path: Path) -> bool:
    """Whether nobody writes this temporary file any more: its lock ended with its writer."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
