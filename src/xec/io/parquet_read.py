"""Reading reconstructions back from Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xec.contract import GAMMA_ESTIMATES
from xec.errors import FileError
from xec.event import Flag, GammaEstimate, Reconstruction, Recovered
from xec.io.parquet import META, RECOVERED_FIELDS, ROW_GROUP, SCHEMA
from xec.io.result_columns import GAMMA_COLUMNS, RESULT_FORMAT, ResultLabel
from xec.lineage import Provenance


@dataclass(frozen=True, slots=True)
class ResultFile:
    """What a result file says about itself."""

    path: Path
    label: ResultLabel
    provenances: tuple[Provenance, ...]
    rows: int


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises on a damaged file into a `FileError`."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise FileError(f"{path} is not a complete Parquet file: write it anew.") from error


def _open(path: Path) -> Any:
    if path.is_dir():
        raise FileError(f"{path} is a directory, not a Parquet file.")
    if not path.exists():
        raise FileError(f"{path} does not exist.")
    with _reading(path):
        return pq.ParquetFile(path, page_checksum_verification=True)


def _described(file: Any, path: Path) -> ResultFile:
    foreign = FileError(f"{path} holds no reconstructed events of format {RESULT_FORMAT}.")
    with _reading(path):
        notes = file.metadata.metadata or {}
    try:
        meta = json.loads(notes.get(META.encode(), b"{}"))
        if meta["format"] != RESULT_FORMAT or not file.schema_arrow.equals(SCHEMA):
            raise foreign
        label = ResultLabel(meta["source"], meta["synthetic"])
        provenances = tuple(Provenance(**entry) for entry in meta["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise foreign from error
    if meta.get("rows") != file.metadata.num_rows:
        raise FileError(f"{path} holds fewer or more rows than it announces: write it anew.")
    return ResultFile(path, label, provenances, file.metadata.num_rows)


def describe_results(path: Path) -> ResultFile:
    """Label, provenance and number of rows of a result file.

    Raises:
        FileError: when it is missing, cut short or not ours.
    """
    with _open(path) as file:
        return _described(file, path)


def _recovered(row: dict[str, Any]) -> Recovered:
    fields = {
        name: np.array(
            [0 if value is None else value for value in row[f"recovered_{name}"]],
            dtype=kind.to_pandas_dtype(),
        )
        for name, kind, _, _ in RECOVERED_FIELDS
    }
    return Recovered(**fields)


def _reconstruction(row: dict[str, Any], provenances: tuple[Provenance, ...]) -> Reconstruction:
    gamma: dict[str, dict[str, Any]] = {estimate.name: {} for estimate in GAMMA_ESTIMATES}
    for column in GAMMA_COLUMNS:
        gamma[column.estimate][column.field] = np.atleast_1d(
            np.asarray(row[column.name], dtype=np.float32)
        )
    return Reconstruction(
        run=row["run"],
        event=row["event"],
        recovered=_recovered(row),
        flags=Flag(row["flags"]),
        provenance=provenances[row["provenance"]],
        **{name: GammaEstimate(**values) for name, values in gamma.items()},
    )


def _rows(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    batches = file.iter_batches(batch_size=ROW_GROUP)
    while True:
        with _reading(path):
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        if batch is None:
            return
        yield from rows


def read_results(path: Path) -> Iterator[Reconstruction]:
    """The reconstructions of a Parquet file, a bounded number in memory at a time.

    A refused sensor has the values 0 and the status that says so.

    Raises:
        FileError: when the file is missing, cut short or not ours.
    """
    with _open(path) as file:
        description = _described(file, path)
        read = 0
        for row in _rows(file, path):
            read += 1
            yield _reconstruction(row, description.provenances)
    if read != description.rows:
        raise FileError(f"{path} ends after {read} of {description.rows} rows: write it anew.")
