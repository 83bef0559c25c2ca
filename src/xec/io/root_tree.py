"""Opening a tree of a ROOT file, with every way it can be wrong as one clear error.

uproot reports damage by exceptions of many kinds, and a file that was not closed as an empty one.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import cramjam
import numpy as np
import uproot
from uproot.deserialization import DeserializationError

from xec.errors import FileError
from xec.io.root_schema import META, Branch, Columns

_DAMAGE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    DeserializationError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    cramjam.DecompressionError,
    struct.error,
    zlib.error,
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what uproot raises on a damaged file into a `FileError`; wrap calls of uproot only."""
    try:
        yield
    except _DAMAGE as error:
        raise FileError(
            f"{path} is damaged or incomplete and cannot be read: copy or write it anew."
        ) from error


def _refuse_foreign(path: Path) -> None:
    if path.is_dir():
        raise FileError(f"{path} is a directory, not a ROOT file.")
    if path.exists() and not path.is_file():  # to open a pipe waits for who writes into it
        raise FileError(f"{path} is no regular file: name a ROOT file.")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist.") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.") from error
    if magic != b"root":
        raise FileError(f"{path} is not a ROOT file.")


def _refuse_cut(path: Path, announced: int) -> None:
    size = path.stat().st_size
    if size < announced:
        raise FileError(
            f"{path} is cut short: {size} of {announced} bytes are there; copy it again."
        )


def open_file(path: Path) -> Any:
    """An open ROOT file whose length is what its header announces.

    Plain reads are used in place of a memory map, which would kill the process if the file shrank.

    Raises:
        FileError: when it is missing, foreign, cut short or was not closed.
    """
    _refuse_foreign(path)
    with reading(path):
        file = uproot.open(
            path, handler=uproot.MultithreadedFileSource, object_cache=None, array_cache=None
        )
    try:
        _refuse_cut(path, int(file.file.fEND))
        with reading(path):
            keys = file.keys()
        if not keys:
            raise FileError(
                f"{path} holds no objects: it was probably not closed when it was written."
            )
    except FileError:
        file.close()
        raise
    return file


def read_meta(file: Any, path: Path) -> dict[str, Any]:
    """What our writer noted about the file; empty for files of other programs."""
    with reading(path):
        if META not in file.keys(cycle=False):
            return {}
        meta = json.loads(str(file[META]))
        if not isinstance(meta, dict):
            raise ValueError(META)
    return meta


def find_tree(file: Any, name: str, path: Path) -> Any:
    """The tree called `name`, with its announced entries complete in every branch.

    Raises:
        FileError: when there is none, or entries are missing.
    """
    with reading(path):
        classes = file.classnames(cycle=False)
    if classes.get(name, "TTree") != "TTree":
        raise FileError(f"{path}: {name} is a {classes[name]}; write it as a TTree.")
    if name not in classes:
        trees = [key for key, kind in classes.items() if kind == "TTree"]
        found = f"its trees are {', '.join(trees)}" if trees else "it holds no tree"
        raise FileError(f"{path} has no tree named {name}; {found}.")
    with reading(path):
        return file[name]


def refuse_missing_entries(tree: Any, meta: dict[str, Any], path: Path) -> None:
    """Compare the entries of tree and branches with what is announced.

    Raises:
        FileError: when some are missing.
    """
    with reading(path):
        entries = int(tree.num_entries)
        stored = {branch.name: int(branch.entry_offsets[-1]) for branch in tree.branches}
    if meta and meta.get("entries") is None:
        raise FileError(f"{path} was not closed when it was written: write it anew.")
    announced = int(meta.get("entries", entries))
    for where, count in {"tree": entries, **stored}.items():
        if count != announced:
            raise FileError(
                f"{path} announces {announced} events, but {where} holds {count}: write it anew."
            )


def has_branch(tree: Any, name: str) -> bool:
    """Whether the tree has a branch of that name at its top level."""
    return any(branch.name == name for branch in tree.branches)


def refuse_other_type(tree: Any, branch: Branch, kinds: Collection[str], path: Path) -> None:
    """Check that a branch has the shape of the format and one of the numpy kinds.

    Raises:
        FileError: when it is missing, of another length or of another type.
    """
    if not has_branch(tree, branch.name):
        present = ", ".join(other.name for other in tree.branches) or "none at all"
        raise FileError(f"{path} has no branch {branch.name}; its branches are {present}.")
    with reading(path):
        interpretation = tree[branch.name].interpretation
        typename = tree[branch.name].typename
    if not isinstance(interpretation, uproot.AsDtype):
        raise FileError(
            f"{path}: branch {branch.name} is {typename}, not of the fixed size {branch.shape}."
        )
    dtype: np.dtype[Any] = interpretation.to_dtype
    if dtype.shape != branch.shape:
        raise FileError(
            f"{path}: an entry of branch {branch.name} has shape {dtype.shape}, not {branch.shape}."
        )
    if dtype.base.kind not in kinds:
        raise FileError(
            f"{path}: branch {branch.name} is of type {typename}, not like {branch.dtype}."
        )


def read_columns(
    tree: Any, names: Collection[str], *, size: int, start: int, stop: int, path: Path
) -> Iterator[tuple[int, Columns]]:
    """First entry and arrays of each `size` entries, one such chunk in memory at a time.

    Raises:
        FileError: when a part of the file cannot be read or yields fewer entries.
    """
    with reading(path):
        steps = tree.iterate(
            filter_name=list(names),
            step_size=size,
            entry_start=start,
            entry_stop=stop,
            library="np",
        )
    for first in range(start, stop, size):
        expected = min(size, stop - first)
        with reading(path):
            columns: Columns = next(steps, {})
            if any(len(columns[name]) != expected for name in names):
                raise ValueError(f"fewer than {expected} entries from entry {first} on")
        yield first, columns
