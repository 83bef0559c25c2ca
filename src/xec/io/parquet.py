"""Writing reconstructions to Parquet: one row per event, recovered sensors as lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xec.event import EventBatch, Reconstruction, Recovered, RecoveryStatus
from xec.io.output import Output, replacing, writing
from xec.io.result_columns import (
    GAMMA_COLUMNS,
    GammaColumn,
    ProvenanceList,
    ResultLabel,
    refuse_mismatch,
)

META: Final = "xec_meta"  # key of the file's metadata; its value is one JSON object

# Rows of a row group: with 90 recovered sensors each about 2 MB before compression.
ROW_GROUP: Final = 1024


def _field(name: str, kind: Any, unit: str, meaning: str) -> Any:
    metadata = {"unit": unit, "meaning": meaning} if unit else {"meaning": meaning}
    return pa.field(name, kind, nullable=False, metadata=metadata)


def _gamma_type(column: GammaColumn) -> Any:
    return pa.float32() if column.width == 1 else pa.list_(pa.float32(), column.width)


RECOVERED_FIELDS: Final = (
    ("channel", pa.int32(), "", "channel ids without a valid count"),
    ("npho", pa.float32(), "photons", "what they should read; null where refused"),
    ("npho_sigma", pa.float32(), "photons", "predictive standard deviation of recovered_npho"),
    ("time", pa.float32(), "ns", "when they should fire; null where refused"),
    ("time_sigma", pa.float32(), "ns", "predictive standard deviation of recovered_time"),
    ("status", pa.uint8(), "", "1 inpainted, 2 baseline, 3 refused"),
)

SCHEMA: Final = pa.schema(
    [
        _field("run", pa.int64(), "", "run number"),
        _field("event", pa.int64(), "", "event number within the run"),
        *(
            _field(column.name, _gamma_type(column), column.unit, column.meaning)
            for column in GAMMA_COLUMNS
        ),
        _field(
            "flags",
            pa.int32(),
            "",
            "sum of 1 outside fiducial volume, 2 outside training domain, 4 too much dead light",
        ),
        *(
            _field(f"recovered_{name}", pa.list_(kind), unit, meaning)
            for name, kind, unit, meaning in RECOVERED_FIELDS
        ),
        _field("provenance", pa.int32(), "", "index into the provenance list of the metadata"),
    ]
)


def _gamma_array(column: GammaColumn, reconstructions: Sequence[Reconstruction]) -> Any:
    values = pa.array(column.values(reconstructions).ravel())
    if column.width == 1:
        return values
    return pa.FixedSizeListArray.from_arrays(values, column.width)


def _recovered_array(name: str, kind: Any, recovered: Sequence[Recovered]) -> Any:
    lengths = [0, *(len(sensors) for sensors in recovered)]
    offsets = pa.array(np.cumsum(lengths), pa.int32())
    values = np.concatenate([getattr(sensors, name) for sensors in recovered])
    status = np.concatenate([sensors.status for sensors in recovered])
    refused = status == RecoveryStatus.REFUSED
    has_value = name in {"channel", "status"}
    flat = pa.array(values, kind, mask=None if has_value else refused)
    return pa.ListArray.from_arrays(offsets, flat)


def result_table(reconstructions: Sequence[Reconstruction], provenances: ProvenanceList) -> Any:
    """Reconstructions as an Arrow table of `SCHEMA`."""
    recovered = [answer.recovered for answer in reconstructions]
    arrays = [
        pa.array([answer.run for answer in reconstructions], pa.int64()),
        pa.array([answer.event for answer in reconstructions], pa.int64()),
        *(_gamma_array(column, reconstructions) for column in GAMMA_COLUMNS),
        pa.array([int(answer.flags) for answer in reconstructions], pa.int32()),
        *(_recovered_array(name, kind, recovered) for name, kind, _, _ in RECOVERED_FIELDS),
        pa.array([provenances.index(a.provenance) for a in reconstructions], pa.int32()),
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


class ParquetResultWriter:
    """Writes reconstructions row by row; a context manager, complete or without a file.

    The metadata of the file holds its provenance (see `ResultLabel`).

    Raises:
        FileError: when the directory is missing or the disk is full.
    """

    def __init__(self, path: Path, label: ResultLabel, output: Output = replacing) -> None:
        self._path = path
        self._open = output
        self._label = label
        self._provenances = ProvenanceList()
        self._pending: list[Reconstruction] = []
        self._rows = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            output = stack.enter_context(self._open(self._path))
            with writing(self._path):
                self._writer = pq.ParquetWriter(
                    output, SCHEMA, compression="zstd", write_page_checksum=True
                )
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

    def write(self, events: EventBatch, reconstructions: Sequence[Reconstruction]) -> None:
        """Append the answers to `events`.

        Raises:
            FileError: when the disk is full.
        """
        refuse_mismatch(events, reconstructions)
        self._pending.extend(reconstructions)
        while len(self._pending) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        table = result_table(self._pending[:ROW_GROUP], self._provenances)
        with writing(self._path):
            self._writer.write_table(table)
        self._rows += len(table)
        del self._pending[:ROW_GROUP]

    def _abandon(self) -> None:
        # Left open, the writer would close itself later, into a file that is gone.
        with suppress(OSError):
            self._writer.close()

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del error, trace
        if kind is not None:
            self._abandon()
            return
        if self._pending:
            self._flush()
        metadata = {**self._label.metadata(self._provenances), "rows": self._rows}
        with writing(self._path):
            self._writer.add_key_value_metadata({META: json.dumps(metadata)})
            self._writer.close()
