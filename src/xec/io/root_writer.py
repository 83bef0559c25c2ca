"""Writing events to ROOT files in the experiment's format."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from xec import __version__
from xec.detector.channels import N_CHANNELS
from xec.event import BoolArray, EventBatch, FloatArray, Truth
from xec.io.markers import with_markers
from xec.io.root_schema import DEAD, IDENTITY, N_DEAD, NPHO_REFERENCE, READINGS, TRUTH, Branch
from xec.io.root_table import RootTable
from xec.units import MEV_PER_GEV, NS_PER_S

EVENT_FORMAT: Final = "xec-events/1"


def reading_columns(events: EventBatch) -> dict[str, NDArray[np.generic]]:
    """Run, event, counts and times (s) as in the file, markers where they are invalid."""
    return {
        "run": events.run,
        "event": events.event,
        "npho": with_markers(events.npho, events.npho_valid),
        "relative_time": with_markers(events.time, events.time_valid, 1.0 / NS_PER_S),
    }


def _truth_columns(truth: Truth) -> dict[str, NDArray[np.generic]]:
    return {
        "energyTruth": truth.energy.astype(np.float64) / MEV_PER_GEV,
        "timeTruth": truth.gamma_time,
        "uvwTruth": truth.uvw,
        "xyzTruth": truth.xyz,
        "xyzVTX": truth.vertex,
        "emiVec": truth.direction,
        "emiAng": truth.angle,
    }


class RootEventWriter:
    """Writes batches of events; a context manager, whose file appears when the block succeeds.

    Invalid readings are written as 1e10. Times of sensors with too little light are written when
    they are valid in the batch, although readers leave them out.

    Args:
        path: the file to write; an existing one is replaced.
        geometry_hash: of the geometry that the events were simulated or measured with.
        synthetic: whether the events were simulated; stored as the file's label.

    Raises:
        FileError: when the directory is missing or the disk is full.
    """

    def __init__(self, path: Path, *, geometry_hash: str, synthetic: bool) -> None:
        self._optional: tuple[Branch, ...] | None = None
        self._table = RootTable(
            path,
            IDENTITY + READINGS,
            {
                "format": EVENT_FORMAT,
                "geometry_hash": geometry_hash,
                "synthetic": synthetic,
                "software_version": __version__,
            },
        )

    def __enter__(self) -> Self:
        self._table.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._table.__exit__(kind, error, trace)

    def write(
        self,
        events: EventBatch,
        dead: BoolArray | None = None,
        npho_reference: FloatArray | None = None,
    ) -> None:
        """Append events.

        Args:
            events: with truth or without, but all batches of a file alike.
            dead: the dead list, (4760,) or (B, 4760); its sensors are written as invalid.
            npho_reference: what each sensor would have read, (B, 4760) photons.

        Raises:
            FileError: when the disk is full, or a number does not fit its branch.
        """
        columns: dict[str, Any] = {}
        branches: tuple[Branch, ...] = ()
        if events.truth is not None:
            branches += TRUTH
            columns |= _truth_columns(events.truth)
        if dead is not None:
            branches += (DEAD, N_DEAD)
            flags = np.broadcast_to(dead, (len(events), N_CHANNELS))
            columns |= {DEAD.name: flags, N_DEAD.name: flags.sum(axis=1)}
            events = events.with_dead(dead)
        if npho_reference is not None:
            branches += (NPHO_REFERENCE,)
            columns[NPHO_REFERENCE.name] = npho_reference
        self._settle(branches)
        self._table.extend({**reading_columns(events), **columns})

    def _settle(self, optional: tuple[Branch, ...]) -> None:
        if self._optional is None:
            self._table.add_branches(optional)
            self._optional = optional
        elif optional != self._optional:
            raise ValueError("all batches of a file have the same optional branches")
