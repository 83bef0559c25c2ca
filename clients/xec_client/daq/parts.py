"""The parts of an output folder: how they are called, and which events are in them.

``run00407-000012.parquet``: run, and a number that grows over the whole folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from xec.errors import FileError
from xec.io.parquet_read import describe_results
from xec.io.root_schema import IDENTITY, TREE
from xec.io.root_tree import find_tree, open_file, read_columns, read_meta, refuse_missing_entries
from xec_client.daq.spool import EventId

_NAME: Final = re.compile(r"run(\d{5,})-(\d{6,})(\.parquet|\.root)")
_COLUMNS: Final = ["run", "event"]
_CHUNK: Final = 100_000


@dataclass(frozen=True, slots=True)
class Part:
    """A part by its name."""

    path: Path
    run: int
    number: int


def part_name(run: int, number: int, suffix: str) -> str:
    """The name of a part."""
    return f"run{run:05d}-{number:06d}{suffix}"


def parts_in(folder: Path) -> list[Part]:
    """All parts of a folder, in the order of their numbers; other files are left alone."""
    matches = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    found = [Part(path, int(m[1]), int(m[2])) for path, m in matches if m is not None]
    return sorted(found, key=lambda part: part.number)


def ids_in(path: Path) -> Iterator[EventId]:
    """The events of a part, in its order.

    Raises:
        FileError: it is damaged or no part of ours.
    """
    columns = _of_parquet(path) if path.suffix == ".parquet" else _of_root(path)
    for runs, events in columns:
        for run, event in zip(runs, events, strict=True):
            yield EventId(run, event)


def _of_parquet(path: Path) -> Iterator[tuple[list[int], list[int]]]:
    describe_results(path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=_CHUNK, columns=_COLUMNS):
                yield batch.column(0).to_pylist(), batch.column(1).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise FileError(f"{path} is damaged: move it away, its events are then redone.") from error


def _of_root(path: Path) -> Iterator[tuple[list[int], list[int]]]:
    file = open_file(path)
    try:
        tree: Any = find_tree(file, TREE, path)
        refuse_missing_entries(tree, read_meta(file, path), path)
        names = [branch.name for branch in IDENTITY]
        stop = int(tree.num_entries)
        for _, columns in read_columns(tree, names, size=_CHUNK, start=0, stop=stop, path=path):
            yield columns["run"].tolist(), columns["event"].tolist()
    finally:
        file.close()
