"""What a result file holds, as one digest: equal for equal content, however the file is laid out.

Two files with the same results differ in their bytes: ROOT embeds a UUID and times, and pages and
baskets may be cut elsewhere. So each column is digested by itself, and then their digests together
with the file's own description.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xec.errors import FileError
from xec.io.parquet import META as PARQUET_META
from xec.io.parquet_read import describe_results
from xec.io.root_results import RESULT_BRANCHES
from xec.io.root_schema import TREE
from xec.io.root_tree import find_tree, open_file, read_columns, read_meta, refuse_missing_entries
from xec.lineage import digest

_ROWS: Final = 64  # of a ROOT file in memory at a time, a basket of our writer
_PARQUET_ROWS: Final = 1024

Columns = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Content:
    """Rows of a result file, and the digest of what they and the file's description say."""

    rows: int
    sha256: str


def content_of(path: Path) -> Content:
    """Read a whole result file and digest it, a bounded number of rows in memory at a time.

    Args:
        path: ends in ``.parquet`` or ``.root``, by our writers.

    Raises:
        FileError: it is missing, damaged, not whole or not ours.
    """
    if path.suffix == ".root":
        return _root_content(path)
    return _parquet_content(path)


class _Digester:
    """Columns that come in pieces."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {}
        self._types: dict[str, str] = {}

    def add(self, columns: Columns) -> None:
        for name, values in columns.items():
            state = self._columns.setdefault(name, hashlib.sha256())
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            self._types[name] = f"{little.dtype.str}{little.shape[1:]}"
            state.update(little.tobytes())

    def result(self, rows: int, meta: Mapping[str, Any]) -> Content:
        columns = {
            name: [self._types[name], state.hexdigest()] for name, state in self._columns.items()
        }
        return Content(rows, digest({"rows": rows, "meta": dict(meta), "columns": columns}))


def _root_content(path: Path) -> Content:
    file = open_file(path)
    with file:
        meta = read_meta(file, path)
        tree = find_tree(file, TREE, path)
        refuse_missing_entries(tree, meta, path)
        names = [branch.name for branch in RESULT_BRANCHES]
        missing = set(names) - {branch.name for branch in tree.branches}
        if missing:
            raise FileError(f"{path} lacks the branch {min(missing)} of reconstructed events.")
        digester, rows = _Digester(), int(tree.num_entries)
        steps = read_columns(tree, names, size=_ROWS, start=0, stop=rows, path=path)
        for _, columns in steps:
            digester.add(columns)
    return digester.result(rows, meta)


def _parquet_content(path: Path) -> Content:
    rows = describe_results(path).rows
    digester = _Digester()
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            meta = json.loads(file.metadata.metadata[PARQUET_META.encode()])
            read = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                read += len(batch)
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    digester.add(dict(_flat(name, column)))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise FileError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if read != rows:
        raise FileError(f"{path} ends after {read} of {rows} rows: write it anew.")
    return digester.result(rows, meta)


def _flat(name: str, column: Any) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """A column as plain arrays: lengths and values of lists, and which values are there."""
    if pa.types.is_list(column.type):
        yield f"{name} lengths", pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if pa.types.is_nested(column.type):
        column = column.flatten()
    if column.null_count or name.startswith("recovered_"):
        yield f"{name} is there", column.is_valid().to_numpy(zero_copy_only=False)
        zero = pa.scalar(0, column.type)
        column = column.fill_null(zero)
    yield name, column.to_numpy(zero_copy_only=False)
