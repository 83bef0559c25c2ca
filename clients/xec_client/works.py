"""From the chunks of a file to what a place reconstructs: dead lists applied, no blind events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from xec.conditions.dead_list import DeadList
from xec.conditions.held import ListsByRun
from xec.errors import InvalidEvent, ModelError
from xec.event import BoolArray, EventBatch
from xec.io.events import EventSource
from xec.io.root_columns import EventChunk
from xec_client.places import Backend, Work

Dead = DeadList | ListsByRun | None
"""The dead sensors of all runs, or by run, or nobody here knows."""


def refuse_other_geometry(file: EventSource, backend: Backend) -> None:
    """Compare the geometry that a file names, if it does, with the model's.

    Raises:
        ModelError: they differ.
    """
    model, events = backend.geometry_hash, file.geometry_hash
    if events is not None and events != model:
        raise ModelError(
            f"{file.path} was made with geometry {events[:12]}…, the model for {model[:12]}…: use "
            "a model for the geometry of the file."
        )


def works_of(chunks: Iterable[EventChunk], dead: Dead) -> Iterator[Work]:
    """The work that chunks of a file make.

    Args:
        chunks: of one file.
        dead: the dead sensors, of all runs or by run; None where the file tells, by its branch or
            event by event.

    Raises:
        InvalidEvent: an event has no sensor with a valid count.
        UnknownRun: no list is known for an event's run.
        FileError: as the chunks.
    """
    for chunk in chunks:
        for work in _works(chunk, dead):
            _refuse_blind(work.events)
            yield work


def _refuse_blind(events: EventBatch) -> None:
    blind = ~events.npho_valid.any(axis=1)
    if blind.any():
        row = int(blind.argmax())
        raise InvalidEvent(
            f"Event {events.event[row]} of run {events.run[row]} has no sensor with a valid "
            "count: leave it out of the file, or check the dead list."
        )


def _works(chunk: EventChunk, dead: Dead) -> Iterator[Work]:
    """The chunk with the given list, or cut where the list that holds changes."""
    if isinstance(dead, DeadList):
        yield Work(chunk.events.with_dead(dead.mask), dead)
    elif dead is not None:
        for part in _cut(chunk, chunk.events.run[1:] != chunk.events.run[:-1]):
            held = dead.of_run(int(part.events.run[0]))
            yield Work(part.events.with_dead(held.dead.mask), held.dead, held.revision)
    elif chunk.dead is None:
        yield Work(chunk.events, None)
    else:
        for part in _cut(chunk, (chunk.dead[1:] != chunk.dead[:-1]).any(axis=1)):
            assert part.dead is not None
            told = DeadList.from_mask(part.dead[0])
            yield Work(part.events.with_dead(told.mask), told)


def _cut(chunk: EventChunk, changes: BoolArray) -> Iterator[EventChunk]:
    """The chunk in parts that end where `changes`, (B - 1,), is True."""
    inner = (np.flatnonzero(changes) + 1).tolist()
    for first, last in pairwise([0, *inner, len(chunk)]):
        yield chunk[first:last]
