"""From the columns of an event tree to events: units, markers and validity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, cast

import numpy as np

from xec.contract import MIN_PHOTONS_FOR_TIME
from xec.errors import FileError
from xec.event import BoolArray, EventBatch, FloatArray, Truth
from xec.io.markers import FloatingArray, split_markers
from xec.io.root_schema import DEAD, NPHO, NPHO_REFERENCE, TRUTH, Branch, Columns
from xec.units import MEV_PER_GEV, NS_PER_S

# Our unit per unit of the file.
_FACTOR: Final = {"GeV": MEV_PER_GEV, "s": NS_PER_S}


@dataclass(frozen=True, slots=True, eq=False)
class EventChunk:
    """Events of a file with what else it says about them.

    `dead` are the sensors of the dead list, already invalid in `events`. `npho_reference` is what
    each sensor would have read, in simulated files that hold it.
    """

    events: EventBatch
    dead: BoolArray | None  # (B, 4760)
    npho_reference: FloatArray | None  # (B, 4760) photons

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, rows: slice) -> EventChunk:
        return EventChunk(
            self.events[rows],
            None if self.dead is None else self.dead[rows],
            None if self.npho_reference is None else self.npho_reference[rows],
        )


@dataclass(frozen=True, slots=True)
class ColumnReader:
    """Columns of entries `first`, `first` + 1, ... of one file."""

    path: Path
    first: int
    columns: Columns

    def split(self, branch: Branch) -> tuple[FloatArray, BoolArray]:
        """Values of a branch in our units and their validity."""
        raw = cast(FloatingArray, self.columns[branch.name])
        factor = _FACTOR.get(branch.unit, 1.0)
        return split_markers(raw, factor, f"{self.path}: branch {branch.name}", self.first)

    def dead(self) -> BoolArray | None:
        """Sensors of the dead list, or None if the file does not tell."""
        if DEAD.name not in self.columns:
            return None
        return self.columns[DEAD.name].astype(np.bool_)

    def npho_reference(self) -> FloatArray | None:
        """What each sensor would have read, or None if the file does not tell.

        Raises:
            FileError: when it holds a marker: a reference is either complete or useless.
        """
        if NPHO_REFERENCE.name not in self.columns:
            return None
        values, valid = self.split(NPHO_REFERENCE)
        if not valid.all():
            entry = self.first + int(np.argwhere(~valid)[0][0])
            raise FileError(
                f"{self.path}: branch {NPHO_REFERENCE.name} holds a marker at entry {entry}; "
                "it must be complete or absent."
            )
        return values

    def truth(self) -> tuple[Truth | None, BoolArray]:
        """Truth of all entries, and which of them have it.

        Programs that write data and simulation alike fill truth branches of data with markers.
        """
        B = len(self.columns["run"])
        if TRUTH[0].name not in self.columns:
            return None, np.zeros(B, dtype=np.bool_)
        parts = [self.split(branch) for branch in TRUTH]
        known = np.logical_and.reduce([valid.reshape(B, -1).all(axis=1) for _, valid in parts])
        return Truth(*(values for values, _ in parts)), known


def useful_times(npho: FloatArray, npho_valid: BoolArray, time_valid: BoolArray) -> BoolArray:
    """Which times count: those of sensors that were read and saw enough light (FACTS 3)."""
    return time_valid & npho_valid & (npho > MIN_PHOTONS_FOR_TIME)


def _events(reader: ColumnReader, time: Branch, dead: BoolArray | None) -> EventBatch:
    npho, npho_valid = reader.split(NPHO)
    times, time_valid = reader.split(time)
    time_valid = useful_times(npho, npho_valid, time_valid)
    events = EventBatch(
        run=reader.columns["run"].astype(np.int64),
        event=reader.columns["event"].astype(np.int64),
        npho=npho,
        time=np.where(time_valid, times, np.float32(0)),
        npho_valid=npho_valid,
        time_valid=time_valid,
    )
    return events if dead is None else events.with_dead(dead)


def chunks_of(reader: ColumnReader, time: Branch) -> Iterator[EventChunk]:
    """The entries of `reader` as one chunk, or more where truth begins or ends.

    Args:
        reader: the columns.
        time: the branch that holds the times.

    Raises:
        FileError: when a value shows that the file is damaged.
    """
    dead = reader.dead()
    chunk = EventChunk(_events(reader, time, dead), dead, reader.npho_reference())
    truth, known = reader.truth()
    if truth is None or not known.any():
        yield chunk
        return
    edges = [0, *(np.flatnonzero(np.diff(known)) + 1).tolist(), len(chunk)]
    for start, stop in pairwise(edges):
        part = chunk[start:stop]
        if known[start]:
            part = replace(part, events=replace(part.events, truth=truth[start:stop]))
        yield part
