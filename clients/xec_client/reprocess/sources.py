"""What is to be reprocessed: files, patterns and run lists, and how a file is recognised again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from glob import glob, has_magic
from pathlib import Path
from typing import Final

from xec.conditions.held import ListsOfRuns
from xec.errors import FileError, UsageError
from xec.io.midas.compression import midas_suffix
from xec.io.midas.runs import files_of_run
from xec.lineage import digest, sha256_of_file

LIST_SUFFIX: Final = ".list"
MAX_LIST_BYTES: Final = 16 << 20


class Identity(StrEnum):
    """By what an input is recognised as the same: name, size and time, or its content."""

    STAT = "stat"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Source:
    """An input file, or a MIDAS run with its subruns.

    Args:
        path: as it was named.
        identity: digest by which it is recognised; empty where it could not be read.
        stamp: sizes and times of its files when it was looked at.
        problem: why it could not be looked at; empty otherwise.
        lists: the dead lists of its runs; None where they are not taken from a database.
    """

    path: Path
    identity: str
    stamp: tuple[tuple[str, int, int], ...] = ()
    problem: str = ""
    lists: ListsOfRuns | None = None

    @property
    def name(self) -> str:
        """The run's name: that of the file without its endings."""
        compression = midas_suffix(self.path)
        if compression is None:
            return self.path.stem
        return self.path.name.removesuffix(f".mid{compression.value}")


def paths_of(arguments: Iterable[str]) -> list[Path]:
    """The files that the command line names, each once, in their order.

    Args:
        arguments: paths, patterns (``*``, ``?``, ``[...]``, ``**``) and lists (``.list``: one of
            these per line, relative to the list; ``#`` begins a comment).

    Raises:
        UsageError: a pattern matches nothing, or nothing at all is named.
        FileError: a list cannot be read.
    """
    paths = dict.fromkeys(path for argument in arguments for path in _expanded(argument, Path()))
    if not paths:
        raise UsageError("No file of events is named: give files, patterns or .list files.")
    return list(paths)


def _expanded(text: str, folder: Path) -> Iterator[Path]:
    path = folder / text
    if has_magic(text) and not path.exists():
        found = sorted(glob(str(path), recursive=True))  # noqa: PTH207 (absolute patterns)
        if not found:
            raise UsageError(f"The pattern {text} matches no file.")
        yield from map(Path, found)
    elif path.suffix == LIST_SUFFIX:
        for line in _lines(path):
            yield from _expanded(line, path.parent)
    else:
        yield path


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise FileError(f"The run list {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not a run list: it is not text.") from error
    if len(content) > MAX_LIST_BYTES:
        raise FileError(f"{path} is not a run list: it is longer than {MAX_LIST_BYTES} bytes.")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    nested = [line for line in lines if line.endswith(LIST_SUFFIX)]
    if nested:
        raise FileError(f"The run list {path} names another list, {nested[0]}: name files only.")
    return [line for line in lines if line]


def look_at(path: Path, by: Identity) -> Source:
    """An input with its identity; one that is missing or unreadable says so in its `problem`."""
    try:
        files = files_of_run(path) if midas_suffix(path) is not None else (path,)
        stamp = _stamp(files)
        if by is Identity.CONTENT:
            told: list[object] = [[file.name, sha256_of_file(file)] for file in files]
        else:
            told = [list(entry) for entry in stamp]
    except FileError as error:
        return Source(path, "", problem=str(error))
    except FileNotFoundError:
        return Source(path, "", problem=f"{path} does not exist.")
    except OSError as error:
        return Source(path, "", problem=f"{path} cannot be read: {error.strerror}.")
    return Source(path, digest([by.value, told]), stamp)


def _stamp(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    states = [(file.name, file.stat()) for file in files]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


def refuse_changed(source: Source) -> None:
    """Compare size and time of the files with when they were first looked at.

    Raises:
        FileError: they differ: what was read belongs to no single state of the input.
    """
    try:
        files = files_of_run(source.path) if midas_suffix(source.path) else (source.path,)
        same = _stamp(files) == source.stamp
    except (FileError, OSError):
        same = False
    if not same:
        raise FileError(f"{source.path} changed while it was read: run again when it is whole.")


def refuse_ambiguous(sources: Iterable[Source]) -> None:
    """Refuse two inputs that cannot be told apart.

    Raises:
        UsageError: two files have the same identity.
    """
    known: dict[str, Path] = {}
    for source in sources:
        if not source.identity:
            continue
        other = known.setdefault(source.identity, source.path)
        if other != source.path:
            raise UsageError(
                f"{other} and {source.path} cannot be told apart by name, size and time, or hold "
                "the same: name one of them, or say --identity content."
            )
