"""Output files appear complete or not at all: written aside, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from xec.errors import FileError, UsageError

_DEVICES: Final = Path("/dev")

Output = Callable[[Path], AbstractContextManager[BinaryIO]]
"""Where the bytes of a path go while it is written; `replacing` is the usual one."""


def refuse_same_file(source: Path, output: Path) -> None:
    """Refuse to write over what is being read.

    Raises:
        UsageError: when both paths lead to the same file, by whatever name.
    """
    same = os.path.realpath(output) == os.path.realpath(source)
    if not same and source.exists() and output.exists():
        same = output.samefile(source)
    if same:
        raise UsageError(f"{output} is the input file itself; choose another output.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals inside into a `FileError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}.") from error


def refuse_place(path: Path) -> None:
    """Refuse to put a file where there is no folder, or something that is no file.

    Raises:
        FileError: so it is.
    """
    if not path.parent.is_dir():
        raise FileError(f"{path} cannot be written: the directory {path.parent} does not exist.")
    if path.is_dir():
        raise FileError(f"{path} cannot be written: it is a directory.")
    # For root, a new file would take the place of /dev/null for every program of the machine.
    if (path.exists() and not path.is_file()) or path.parent.resolve() == _DEVICES:
        raise FileError(f"{path} cannot be written: it is a device or a pipe; name a file.")


def _publish(part: Path, path: Path) -> None:
    part.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing and reading, that becomes `path` when the block succeeds.

    It lies beside `path` under a temporary name. When the block fails it is removed, and what was
    at `path` before stays as it was. A link at `path` is replaced, not followed.

    Raises:
        FileError: when the directory is missing or the operating system refuses.
    """
    refuse_place(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with writing(path):
        file = cast(BinaryIO, part.open("x+b"))
    try:
        yield file
        with writing(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            _publish(part, path)
    finally:
        # After a full disk, closing tries to flush again and fails again: already reported.
        with suppress(OSError):
            file.close()
        part.unlink(missing_ok=True)
