"""From the chunks of a file to what a place reconstructs: dead lists applied, no blind events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from xec.conditions.dead_list import DeadList
from xec.errors import InvalidEvent, ModelError
from xec.event import EventBatch
from xec.io.events import EventSource
from xec.io.root_columns import EventChunk
from xec_client.places import Backend, Work


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


def works_of(chunks: Iterable[EventChunk], dead: DeadList | None) -> Iterator[Work]:
    """The work that chunks of a file make.

    Args:
        chunks: of one file.
        dead: the dead sensors; None where the file tells, by its branch or event by event.

    Raises:
        InvalidEvent: an event has no sensor with a valid count.
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


def _works(chunk: EventChunk, dead: DeadList | None) -> Iterator[Work]:
    """The chunk with the given list, or cut where the list that the file tells changes."""
    if dead is not None:
        yield Work(chunk.events.with_dead(dead.mask), dead)
    elif chunk.dead is None:
        yield Work(chunk.events, None)
    else:
        changes = np.flatnonzero((chunk.dead[1:] != chunk.dead[:-1]).any(axis=1)) + 1
        for first, last in pairwise([0, *changes.tolist(), len(chunk.events)]):
            told = DeadList.from_mask(chunk.dead[first])
            yield Work(chunk.events[first:last].with_dead(told.mask), told)
