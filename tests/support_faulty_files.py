"""A disk for `xec reprocess` that fails at the N-th operation, or where the process ends there."""

from __future__ import annotations

import errno
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, cast

from xec_client.reprocess.files import DiskFiles


class Killed(BaseException):
    """The process ends here; what was written stays in the page cache."""


Fault = Callable[[str, int], BaseException | None]


def at(number: int, error: Callable[[], BaseException]) -> Fault:
    """The fault at operation `number`, from 1."""
    return lambda _, n: error() if n == number else None


def no_space() -> BaseException:
    return OSError(errno.ENOSPC, "No space left on device")


def broken() -> BaseException:
    return OSError(errno.EIO, "Input/output error")


class FaultyFiles(DiskFiles):
    """Real files, each operation counted and logged as (operation, name of the file or part)."""

    def __init__(self, fault: Fault = lambda *_: None, seed: int = 0) -> None:
        self.fault = fault
        self.random = Random(seed)
        self.log: list[tuple[str, str]] = []
        self.dead = False
        self.lock = threading.Lock()

    def begin(self, operation: str, name: str) -> None:
        with self.lock:  # a part is published while the next one is written
            if self.dead:
                raise Killed
            self.log.append((operation, name))
            error = self.fault(operation, len(self.log))
            if isinstance(error, Killed):
                self.dead = True
            if error is not None:
                raise error

    def create(self, path: Path) -> BinaryIO:
        self.begin("create", path.name)
        return cast(BinaryIO, io.BufferedRandom(_CountedFile(path, self)))

    def sync(self, file: BinaryIO) -> None:
        file.flush()
        self.begin("sync", Path(file.name).name)

    def link(self, source: Path, target: Path) -> None:
        self.begin("link", target.name)
        super().link(source, target)

    def unlink(self, path: Path) -> None:
        self.begin("unlink", path.name)
        super().unlink(path)

    def sync_folder(self, folder: Path) -> None:
        self.begin("sync folder", folder.name)

    def append(self, path: Path, data: bytes) -> None:
        was_dead = self.dead
        try:
            self.begin("append", _part_of(data) or path.name)
        except BaseException:
            if not was_dead:  # a write that fails has often done a part of its work
                _add(path, data[: self.random.randrange(len(data) + 1)])
            raise
        _add(path, data)

    def truncate(self, path: Path, size: int) -> None:
        self.begin("truncate", path.name)
        super().truncate(path, size)


def _part_of(data: bytes) -> str | None:
    """The part that a row of a manifest is about."""
    part = json.loads(data or b"{}").get("part")
    return None if part is None else str(part["name"])


def _add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


class _CountedFile(io.FileIO):
    def __init__(self, path: Path, disk: FaultyFiles) -> None:
        super().__init__(path, "x+")
        self.disk = disk

    def write(self, data: Any) -> int:
        if self.disk.dead:  # the end of the process closes files without writing
            return len(data)
        content = bytes(data)
        try:
            self.disk.begin("write", Path(str(self.name)).name)
        except BaseException:
            super().write(content[: self.disk.random.randrange(len(content) + 1)])
            if self.disk.dead:
                return len(content)
            raise
        return super().write(content)
