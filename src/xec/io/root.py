"""Reading events from ROOT files as a stream of chunks: memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from xec.errors import FileError, UsageError
from xec.event import EventBatch
from xec.io.root_columns import ColumnReader, EventChunk, chunks_of
from xec.io.root_schema import (
    DEAD,
    IDENTITY,
    NPHO,
    NPHO_REFERENCE,
    OLD_TIME,
    RELATIVE_TIME,
    RUN,
    TREE,
    TRUTH,
    UNCONVERTIBLE,
    Branch,
)
from xec.io.root_tree import (
    find_tree,
    has_branch,
    open_file,
    read_columns,
    read_meta,
    refuse_missing_entries,
    refuse_other_type,
)

DEFAULT_CHUNK: Final = 256

_RUN_ROWS: Final = 1 << 16  # of one column

# Numpy kinds: floating, integer, flags.
_FLOATING: Final = "f"
_INTEGER: Final = "iu"
_FLAG: Final = "biu"


class EventFile:
    """An open event file; a context manager, of the length of its number of events.

    Raises:
        FileError: on opening, when the file is missing, foreign, cut short, was not closed, lacks
            the tree or a branch, or has branches of another length or type.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.path = path
        self._file = open_file(path)
        try:
            meta = read_meta(self._file, path)
            self._tree = find_tree(self._file, TREE, path)
            refuse_missing_entries(self._tree, meta, path)
            self._time = self._time_branch()
            self._names = self._checked_names()
        except BaseException:
            self._file.close()
            raise
        self._labelled_synthetic = meta.get("synthetic") is True
        self.geometry_hash: str | None = meta.get("geometry_hash")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return int(self._tree.num_entries)

    @property
    def has_truth(self) -> bool:
        """Whether all truth branches are there; single events may still lack it."""
        return TRUTH[0].name in self._names

    @property
    def synthetic(self) -> bool:
        """Whether the file is labelled synthetic or, without a label, holds truth."""
        return self._labelled_synthetic or self.has_truth

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know besides: nothing, as a file that is not whole is refused."""
        return ()

    def runs(self) -> tuple[int, ...]:
        """The runs that its events belong to, ascending.

        Raises:
            FileError: the file is damaged.
        """
        found: set[int] = set()
        steps = read_columns(
            self._tree, [RUN.name], size=_RUN_ROWS, start=0, stop=len(self), path=self.path
        )
        for _, columns in steps:
            found.update(np.unique(columns[RUN.name]).tolist())
        return tuple(sorted(found))

    def chunks(
        self,
        size: int = DEFAULT_CHUNK,
        *,
        entry_start: int = 0,
        entry_stop: int | None = None,
    ) -> Iterator[EventChunk]:
        """Events `entry_start` to `entry_stop` (excluded), at most `size` at a time.

        A chunk holds either only events with truth or only events without.

        Raises:
            FileError: when a part of the file is damaged; chunks before it were already given.
            UsageError: when the range makes no sense.
        """
        if size < 1 or entry_start < 0:
            raise UsageError("A chunk has at least one event, and the first entry is 0 or later.")
        stop = len(self) if entry_stop is None else min(entry_stop, len(self))
        steps = read_columns(
            self._tree, self._names, size=size, start=entry_start, stop=stop, path=self.path
        )
        for first, columns in steps:
            yield from chunks_of(ColumnReader(self.path, first, columns), self._time)

    def _time_branch(self) -> Branch:
        old = not has_branch(self._tree, RELATIVE_TIME.name) and has_branch(
            self._tree, OLD_TIME.name
        )
        return OLD_TIME if old else RELATIVE_TIME

    def _refuse_unconvertible(self) -> None:
        if has_branch(self._tree, NPHO.name):
            return
        for name, reason in UNCONVERTIBLE.items():
            if has_branch(self._tree, name):
                raise FileError(
                    f"{self.path} has no branch {NPHO.name}, only {name}: {reason}. "
                    f"Write {NPHO.name} (photons) with the analyzer."
                )

    def _checked_names(self) -> list[str]:
        self._refuse_unconvertible()
        branches = [(branch, _INTEGER) for branch in IDENTITY]
        branches += [(NPHO, _FLOATING), (self._time, _FLOATING)]
        if all(has_branch(self._tree, branch.name) for branch in TRUTH):
            branches += [(branch, _FLOATING) for branch in TRUTH]
        for branch, kinds in ((DEAD, _FLAG), (NPHO_REFERENCE, _FLOATING)):
            if has_branch(self._tree, branch.name):
                branches.append((branch, kinds))
        for branch, kinds in branches:
            refuse_other_type(self._tree, branch, kinds, self.path)
        return [branch.name for branch, _ in branches]


def open_events(path: Path | str) -> EventFile:
    """Open an event file; see `EventFile`."""
    return EventFile(path)


def event_count(path: Path | str) -> int:
    """Number of events of a file, after the checks of opening it."""
    with EventFile(path) as file:
        return len(file)


def read_events(
    path: Path | str,
    chunk: int = DEFAULT_CHUNK,
    *,
    entry_start: int = 0,
    entry_stop: int | None = None,
) -> Iterator[EventBatch]:
    """The events of a file, at most `chunk` in memory at a time; see `EventFile.chunks`.

    Raises:
        FileError: when the file is not a complete event file.
    """
    with EventFile(path) as file:
        for part in file.chunks(chunk, entry_start=entry_start, entry_stop=entry_stop):
            yield part.events
