"""From a file of events to a file of results, as a stream of batches."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from xec.event import Reconstruction
from xec.io.events import EventSource, open_events
from xec.io.output import refuse_same_file
from xec.io.results import ResultWriter, open_result_writer
from xec_client.ordered import ordered_map
from xec_client.places import Backend, Place
from xec_client.progress import event_progress
from xec_client.summary import event_table, recovered_table, summary_table
from xec_client.tally import Tally
from xec_client.works import Dead, refuse_other_geometry, works_of

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
        dead: the dead sensors, of all runs or by run; None where the file tells, by its branch or
            event by event.
        batch_size: events that are reconstructed together.
        in_flight: batches under way at the same time.
    """

    source: Path
    output: Path
    dead: Dead
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
    refuse_other_geometry(file, backend)
    with writer:
        batches = works_of(file.chunks(job.batch_size), job.dead)
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
