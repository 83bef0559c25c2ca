"""Writing reconstructions to ROOT: flat fixed-size branches, for the experiment's macros.

Counts and times are those of the event with the recovered sensors filled in, so the file can be
read wherever an event file can.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import N_CHANNELS
from xec.event import EventBatch, Reconstruction, RecoveryStatus
from xec.io.output import Output, replacing
from xec.io.result_columns import (
    GAMMA_COLUMNS,
    ProvenanceList,
    ResultLabel,
    refuse_mismatch,
)
from xec.io.root_schema import IDENTITY, READINGS, Branch, Columns
from xec.io.root_table import RootTable
from xec.io.root_writer import reading_columns
from xec.units import NS_PER_S

SENSOR_BRANCHES: Final = (
    Branch("npho_sigma", "f4", (N_CHANNELS,), "photons", "of recovered counts, 0 for live sensors"),
    Branch("relative_time_sigma", "f4", (N_CHANNELS,), "s", "of recovered times, 0 elsewhere"),
    Branch("recovered", "u1", (N_CHANNELS,), "", "0 live, 1 inpainted, 2 baseline, 3 refused"),
)

RESULT_BRANCHES: Final = (
    *IDENTITY,
    *(
        Branch(
            column.name,
            "f4",
            () if column.width == 1 else (column.width,),
            column.unit,
            column.meaning,
        )
        for column in GAMMA_COLUMNS
    ),
    Branch("flags", "i4", (), "", "1 outside fiducial, 2 outside domain, 4 too much dead light"),
    Branch("provenance", "i4", (), "", "index into the provenance list of the file's note"),
    *READINGS,
    *SENSOR_BRANCHES,
)


def _fill(events: EventBatch, answers: Sequence[Reconstruction]) -> tuple[EventBatch, Columns]:
    """Events with the recovered sensors filled in, and the branches that tell which."""
    npho, npho_valid = events.npho.copy(), events.npho_valid.copy()
    time, time_valid = events.time.copy(), events.time_valid.copy()
    npho_sigma, time_sigma = np.zeros_like(npho), np.zeros_like(time)
    status = np.zeros(npho.shape, dtype=np.uint8)
    for row, answer in enumerate(answers):
        sensors = answer.recovered
        status[row, sensors.channel] = sensors.status
        filled = sensors.status != RecoveryStatus.REFUSED
        channel = sensors.channel[filled]
        npho[row, channel] = sensors.npho[filled]
        time[row, channel] = sensors.time[filled]
        npho_sigma[row, channel] = sensors.npho_sigma[filled]
        time_sigma[row, channel] = sensors.time_sigma[filled]
        npho_valid[row, channel] = True
        time_valid[row, channel] = True
    full = EventBatch(events.run, events.event, npho, time, npho_valid, time_valid)
    return full, {
        "npho_sigma": npho_sigma,
        "relative_time_sigma": time_sigma.astype(np.float64) / NS_PER_S,
        "recovered": status,
    }


def _gamma_columns(answers: Sequence[Reconstruction]) -> dict[str, NDArray[np.generic]]:
    return {
        column.name: column.values(answers)[:, 0] if column.width == 1 else column.values(answers)
        for column in GAMMA_COLUMNS
    }


class RootResultWriter:
    """Writes reconstructions row by row; a context manager, complete or without a file.

    Raises:
        FileError: when the directory is missing or the disk is full.
    """

    def __init__(self, path: Path, label: ResultLabel, output: Output = replacing) -> None:
        self._label = label
        self._provenances = ProvenanceList()
        meta = label.metadata(self._provenances)
        self._table = RootTable(path, RESULT_BRANCHES, meta, output)

    def __enter__(self) -> Self:
        self._table.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._table.annotate(self._label.metadata(self._provenances))
        self._table.__exit__(kind, error, trace)

    def write(self, events: EventBatch, reconstructions: Sequence[Reconstruction]) -> None:
        """Append the answers to `events`.

        Raises:
            FileError: when the disk is full, or a number does not fit its branch.
        """
        refuse_mismatch(events, reconstructions)
        full, sensors = _fill(events, reconstructions)
        self._table.extend(
            {
                **reading_columns(full),
                **_gamma_columns(reconstructions),
                **sensors,
                "flags": [int(answer.flags) for answer in reconstructions],
                "provenance": [self._provenances.index(a.provenance) for a in reconstructions],
            }
        )
