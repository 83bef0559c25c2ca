"""Writing a tree with fixed-size branches, in baskets of bounded size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import uproot

from xec.errors import FileError
from xec.io.output import Output, replacing, writing
from xec.io.root_schema import META, TREE, Branch, Columns

# Entries per basket: 1.2 MB of a 4760-sensor branch, large enough to compress and to read in one
# go, small enough that a writer or reader never holds much.
BASKET_ENTRIES: Final = 64


class RootTable:
    """A tree named `tree` that grows by columns; the file appears when the block succeeds.

    LZ4 is the fastest of ROOT's compressions and the one that carries a checksum.

    Args:
        path: the file to write; an existing one is replaced.
        branches: those that every such tree has; see `add_branches`.
        meta: stored beside the tree as JSON, with the number of entries.
        output: where the bytes go.
    """

    def __init__(
        self,
        path: Path,
        branches: tuple[Branch, ...],
        meta: Mapping[str, Any],
        output: Output = replacing,
    ) -> None:
        self._path = path
        self._open = output
        self._branches = branches
        self._meta = dict(meta)
        self._stack = ExitStack()
        self._file: Any = None
        self._tree: Any = None
        self._pending: list[Columns] = []
        self._pending_entries = 0
        self._entries = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            output = stack.enter_context(self._open(self._path))
            with writing(self._path):
                self._file = uproot.recreate(output, compression=uproot.LZ4(4))
                # Until the file is closed its note announces no number of entries.
                self._note(None)
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add_branches(self, branches: tuple[Branch, ...]) -> None:
        """Give the tree further branches; only before its first entries."""
        if self._entries or self._pending:
            raise ValueError("branches come before entries")
        self._branches += branches

    def annotate(self, meta: Mapping[str, Any]) -> None:
        """Add to what is stored beside the tree."""
        self._meta.update(meta)

    def extend(self, columns: Mapping[str, Any]) -> None:
        """Append entries; every branch must be there.

        Raises:
            FileError: when the disk is full, or a number does not fit its branch.
        """
        converted = {
            branch.name: self._fit(branch, columns[branch.name]) for branch in self._branches
        }
        self._pending.append(converted)
        self._pending_entries += len(converted[self._branches[0].name])
        while self._pending_entries >= BASKET_ENTRIES:
            self._flush(BASKET_ENTRIES)

    def _fit(self, branch: Branch, values: Any) -> Any:
        array = np.asarray(values)
        if branch.dtype == "i4" and array.size and not np.array_equal(array, array.astype("i4")):
            raise FileError(
                f"{self._path}: a value of {branch.name} does not fit 32 bits; write Parquet."
            )
        return array.astype(branch.dtype).reshape(-1, *branch.shape)

    def _create_tree(self) -> None:
        types = {branch.name: branch.type for branch in self._branches}
        with writing(self._path):
            self._tree = self._file.mktree(TREE, types)

    def _flush(self, entries: int) -> None:
        if self._tree is None:
            self._create_tree()
        merged = self._merged()
        with writing(self._path):
            self._tree.extend({name: array[:entries] for name, array in merged.items()})
        self._entries += entries
        self._pending_entries -= entries
        rest = [{name: array[entries:] for name, array in merged.items()}]
        self._pending = rest if self._pending_entries else []

    def _merged(self) -> Columns:
        if len(self._pending) == 1:
            return self._pending[0]
        return {
            branch.name: np.concatenate([part[branch.name] for part in self._pending])
            for branch in self._branches
        }

    def _note(self, entries: int | None) -> None:
        self._file[META] = json.dumps({**self._meta, "entries": entries}, sort_keys=True)

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del error, trace
        if kind is not None:
            return
        if self._pending_entries:
            self._flush(self._pending_entries)
        if self._tree is None:
            self._create_tree()
        # uproot keeps the file complete after each call; `replacing` closes it.
        with writing(self._path):
            self._note(self._entries)
