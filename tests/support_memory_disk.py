"""A disk in memory that fails at the N-th operation, is killed, or loses what was not synced.

Stricter than most: a file's content and a folder's names survive a power cut only if each was
synced; of the rest, a random part does. A failed fsync drops what it should have written, and the
next fsync of that file succeeds all the same, as on Linux.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random


class Killed(BaseException):
    """The process ends here; what was written stays in the page cache."""


class PowerCut(BaseException):
    """The machine ends here."""


@dataclass(eq=False)
class Inode:
    volatile: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)


def apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
    """A write (offset, data), or a truncation to a size."""
    if isinstance(change, int):
        del content[change:]
        content.extend(bytes(change - len(content)))
        return
    offset, data = change
    content.extend(bytes(max(offset - len(content), 0)))
    content[offset : offset + len(data)] = data


Names = dict[str, Inode]


@dataclass
class Folder:
    volatile: Names = field(default_factory=dict)
    durable: Names = field(default_factory=dict)
    pending: list[Callable[[Names], None]] = field(default_factory=list)

    def change(self, operation: Callable[[Names], None]) -> None:
        operation(self.volatile)
        self.pending.append(operation)


Fault = Callable[[str, int], BaseException | None]


def at(number: int, error: Callable[[], BaseException], times: int = 1) -> Fault:
    """The fault at operation `number` (from 1), and at the `times` - 1 after it."""
    return lambda _, n: error() if number <= n < number + times else None


def at_each(operation: str, first: int, error: Callable[[], BaseException], times: int) -> Fault:
    """The fault at the `first`-th operation of a kind (from 1), and at the next of that kind."""
    seen = 0

    def fault(name: str, _: int) -> BaseException | None:
        nonlocal seen
        seen += name == operation
        return error() if name == operation and first <= seen < first + times else None

    return fault


def no_space() -> BaseException:
    return OSError(errno.ENOSPC, "No space left on device")


def broken() -> BaseException:
    return OSError(errno.EIO, "Input/output error")


class MemoryDisk:
    """The file layer of `xec_client.daq.spool.files`, on a disk of this process."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.folders: dict[Path, Folder] = {}
        self.open_files: dict[int, Inode] = {}
        self.next_fd = 1000
        self.operations = 0
        self.log: list[str] = []
        self.fault: Fault = lambda *_: None

    def _begin(self, operation: str) -> BaseException | None:
        self.operations += 1
        self.log.append(operation)
        return self.fault(operation, self.operations)

    def _refuse(self, operation: str) -> None:
        error = self._begin(operation)
        if error is not None:
            raise error

    def _inode(self, path: Path) -> Inode:
        try:
            return self.folders[path.parent].volatile[path.name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path)) from None

    def _opened(self, inode: Inode) -> int:
        self.next_fd += 1
        self.open_files[self.next_fd] = inode
        return self.next_fd

    def make_folder(self, path: Path) -> None:
        self.folders.setdefault(path, Folder())

    def list(self, folder: Path) -> list[str]:
        inside = [path.name for path in self.folders if path.parent == folder]
        return [*self.folders[folder].volatile, *inside]

    def size(self, path: Path) -> int:
        return len(self._inode(path).volatile)

    def read(self, path: Path) -> bytes:
        return bytes(self._inode(path).volatile)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        return bytes(self._inode(path).volatile[offset : offset + size])

    def create(self, path: Path) -> int:
        self._refuse("create")
        folder = self.folders[path.parent]
        if path.name in folder.volatile:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        inode = Inode()
        folder.change(lambda names: names.__setitem__(path.name, inode))
        return self._opened(inode)

    def open(self, path: Path) -> int:
        return self._opened(self._inode(path))

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        error = self._begin("write")
        inode = self.open_files[fd]
        # A write that fails has often done a part of its work.
        done = data if error is None else data[: self.random.randrange(len(data) + 1)]
        if done:
            apply(inode.volatile, (offset, done))
            inode.pending.append((offset, done))
        if error is not None:
            raise error

    def truncate(self, fd: int, size: int) -> None:
        self._refuse("truncate")
        inode = self.open_files[fd]
        apply(inode.volatile, size)
        inode.pending.append(size)

    def fsync(self, fd: int) -> None:
        error = self._begin("fsync")
        inode = self.open_files[fd]
        if error is None:
            for change in inode.pending:
                apply(inode.durable, change)
        elif not isinstance(error, OSError):
            raise error
        inode.pending.clear()
        if error is not None:
            raise error

    def close(self, fd: int) -> None:
        del self.open_files[fd]

    def rename(self, source: Path, target: Path) -> None:
        self._refuse("rename")
        inode = self._inode(source)

        def rename(names: Names) -> None:
            names.pop(source.name, None)
            names[target.name] = inode

        self.folders[source.parent].change(rename)

    def unlink(self, path: Path) -> None:
        self._refuse("unlink")
        self.folders[path.parent].change(lambda names: names.pop(path.name, None) and None)

    def fsync_folder(self, folder: Path) -> None:
        self._refuse("fsync folder")
        if folder not in self.folders:
            return
        known = self.folders[folder]
        known.durable = dict(known.volatile)
        known.pending.clear()

    def end_process(self) -> None:
        """What a kill leaves."""
        self.open_files.clear()
        self.fault = lambda *_: None
        self.operations = 0

    def cut_power(self) -> None:
        """What a power cut leaves: what was synced, and of the rest a random part."""
        self.end_process()
        inodes = {
            inode: None  # in order, so that a seed means the same each time
            for folder in self.folders.values()
            for names in (folder.volatile, folder.durable)
            for inode in names.values()
        }
        for inode in inodes:
            self._forget_content(inode)
        for folder in self.folders.values():
            for operation in folder.pending:
                if self.random.random() < 0.5:
                    operation(folder.durable)
            folder.pending.clear()
            folder.volatile = dict(folder.durable)

    def _forget_content(self, inode: Inode) -> None:
        for change in inode.pending[: self.random.randrange(len(inode.pending) + 1)]:
            if isinstance(change, tuple) and self.random.random() < 0.3:
                # The size got to the disk, the content did not, or not all of it.
                offset, data = change
                part = self.random.randrange(len(data) + 1)
                change = (offset, data[:part] + bytes(len(data) - part))  # noqa: PLW2901
            apply(inode.durable, change)
        inode.pending.clear()
        inode.volatile = bytearray(inode.durable)
