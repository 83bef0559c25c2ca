"""From a file of events to a file of results, as a stream of batches."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from xec.conditions.dead_list import DeadList
from xec.errors import InvalidEvent, ModelError
from xec.event import EventBatch, Reconstruction
from xec.io.events import EventSource, open_events
from xec.io.output import refuse_same_file
from xec.io.results import ResultWriter, open_result_writer
from xec.io.root_columns import EventChunk
from xec_client.ordered import ordered_map
from xec_client.places import Backend, Place, Work
from xec_client.progress import event_progress
from xec_client.summary import event_table, recovered_table, summary_table
from xec_client.tally import Tally

PIPED_WIDTH: Final = 110
"""Columns of a table that goes to a file or a pipe."""

SENSORS_PER_SHOWN_EVENT: Final = 2

Answers = Sequence[Reconstruction]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be reconstructed and how.

    Args:
        source: file of events.
        output: file of results; its suffix names the format.
        dead: the dead sensors; None where the file tells, by its branch or event by event.
        batch_size: events that are reconstructed together.
        in_flight: batches under way at the same time.
    """

    source: Path
    output: Path
    dead: DeadList | None
    batch_size: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed.

    Args:
        show: how many of the first events, as tables.
        quiet: neither progress nor summary.
    """

    show: int
    quiet: bool


def _refuse_other_geometry(file: EventSource, backend: Backend) -> None:
    model, events = backend.geometry_hash, file.geometry_hash
    if events is not None and events != model:
        raise ModelError(
            f"{file.path} was made with geometry {events[:12]}…, the model for {model[:12]}…: use "
            "a model for the geometry of the file."
        )


def _refuse_blind(events: EventBatch) -> None:
    blind = ~events.npho_valid.any(axis=1)
    if blind.any():
        row = int(blind.argmax())
        raise InvalidEvent(
            f"Event {events.event[row]} of run {events.run[row]} has no sensor with a valid "
            "count: leave it out of the file, or check the dead list."
        )


def _batches(file: EventSource, job: Job) -> Iterator[Work]:
    for chunk in file.chunks(job.batch_size):
        for work in _works(chunk, job.dead):
            _refuse_blind(work.events)
            yield work


def _works(chunk: EventChunk, dead: DeadList | None) -> Iterator[Work]:
    """The chunk with the list of the job, or cut where the list that the file tells changes."""
    if dead is not None:
        yield Work(chunk.events.with_dead(dead.mask), dead)
    elif chunk.dead is None:
        yield Work(chunk.events, None)
    else:
        changes = np.flatnonzero((chunk.dead[1:] != chunk.dead[:-1]).any(axis=1)) + 1
        for first, last in pairwise([0, *changes.tolist(), len(chunk.events)]):
            told = DeadList.from_mask(chunk.dead[first])
            yield Work(chunk.events[first:last].with_dead(told.mask), told)


def run_job(
    job: Job, file: EventSource, backend: Backend, writer: ResultWriter
) -> Generator[Answers]:
    """Reconstruct all events of a file; gives the answers of each batch once they are written.

    Args:
        job: what to do.
        file: its source, open.
        backend: who does it.
        writer: takes the answers; what it wrote appears only if all went well.

    Raises:
        XecError: the file is damaged or of another geometry than the model, an event has no valid
            sensor, the backend failed, or the output cannot be written.
    """
    _refuse_other_geometry(file, backend)
    with writer:
        batches = _batches(file, job)
        for work, answers in ordered_map(backend.reconstruct, batches, job.in_flight):
            writer.write(work.events, answers)
            yield answers


def _print_events(console: Console, tally: Tally, synthetic: bool) -> None:
    kind = "synthetic events" if synthetic else "events"
    title = f"Reconstructed {kind}, {len(tally.shown)} of {len(tally)}"
    console.print(event_table(tally.shown, title))
    console.print(recovered_table(tally.shown, SENSORS_PER_SHOWN_EVENT * len(tally.shown)))


def _print_notes(notes: Sequence[str]) -> None:
    """Tell on the error stream what is missing, even where nothing else is printed."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"xec: {note}")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def reconstruct_file(job: Job, place: Place, report: Report) -> None:
    """Reconstruct a file and tell about it.

    Args:
        job: what to do.
        place: where.
        report: what to print.

    Raises:
        XecError: as `run_job`; or the place has no model, or no server.
        UsageError: the output is the input, or of an unknown kind.
    """
    refuse_same_file(job.source, job.output)
    tally = Tally(report.show)
    with open_events(job.source) as file:
        synthetic = file.synthetic
        writer = open_result_writer(job.output, source=job.source.name, synthetic=synthetic)
        total = len(file) if isinstance(file, Sized) else None
        with place.open() as backend, event_progress(total, report.quiet) as advance:
            start = time.perf_counter()
            with closing(run_job(job, file, backend, writer)) as written:
                for answers in written:
                    tally.add(answers)
                    advance(len(answers))
            seconds = time.perf_counter() - start
        _print_notes(file.notes)
    console = _console()
    if tally.shown:
        _print_events(console, tally, synthetic)
    if not report.quiet:
        console.print(summary_table(tally, seconds, str(place), str(job.output)))
