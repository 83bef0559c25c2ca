"""Making the parts of a piece: in this process, or in that of a Dask worker."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final

from xec import __version__
from xec.conditions.dead_list import DeadList
from xec.errors import XecError
from xec.event import Reconstruction
from xec.io.events import EventSource, open_events
from xec.io.results import ResultWriter
from xec.io.root import EventFile
from xec.io.root_columns import EventChunk
from xec_client.ordered import ordered_map
from xec_client.places import Backend, Embedded, Remote
from xec_client.reprocess.failures import ModelChanged, ends_all
from xec_client.reprocess.files import DiskFiles, Files
from xec_client.reprocess.lineage import Recipe, part_name
from xec_client.reprocess.plan import Piece
from xec_client.reprocess.sink import Draft, Part, Sink
from xec_client.works import Dead, refuse_other_geometry, works_of

AnyPlace = Embedded | Remote


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that a worker needs besides the piece.

    Args:
        place: who reconstructs.
        recipe: what decides the results.
        dead: the dead sensors; None where the files or the server tell, or the piece.
        folder: of the lineage.
        in_flight: batches under way at the same time.
    """

    place: AnyPlace
    recipe: Recipe
    dead: DeadList | None
    folder: Path
    in_flight: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a piece was not finished.

    Args:
        reason: one sentence.
        ends_all: whether it lies not in the input, and so nothing else can go on.
        exit_code: of the error.
    """

    reason: str
    ends_all: bool = False
    exit_code: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a piece, or of a part of it.

    Args:
        piece: which one.
        parts: published since the last outcome.
        finished: nothing more comes of this piece.
        failure: why it was not finished; None while all is well.
        notes: what a user should know of the input, one sentence each.
    """

    piece: Piece
    parts: tuple[Part, ...] = ()
    finished: bool = True
    failure: Failure | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Filled:
    """A part that is computed; whoever gets it has to publish it.

    Args:
        piece: which it belongs to.
        draft: the part.
    """

    piece: Piece
    draft: Draft

    def publish(self) -> Outcome:
        """The outcome: the part, or why there is none."""
        try:
            return Outcome(self.piece, (self.draft.publish(),), finished=False)
        except XecError as error:
            return Outcome(self.piece, finished=False, failure=failure_of(error))


Step = Filled | Outcome


def published(steps: Iterable[Step], publish: Executor | None) -> Generator[Outcome]:
    """The outcomes of all steps in their order.

    Args:
        steps: of pieces.
        publish: publishes a part while the next one is computed, and no further one before it is
            done; None: in turn.
    """
    waiting: deque[Future[Outcome] | Outcome] = deque()
    for step in steps:
        if isinstance(step, Outcome):
            waiting.append(step)
            # A failure may end everything: nothing else is begun before it is told.
            yield from _outcomes(waiting, at_once=step.failure is None)
            continue
        try:
            yield from _outcomes(waiting)
        except BaseException:  # whoever asks for outcomes asks for no more
            step.draft.abandon()
            raise
        waiting.append(step.publish() if publish is None else publish.submit(step.publish))
        yield from _outcomes(waiting, at_once=True)
    yield from _outcomes(waiting)


def _outcomes(
    waiting: deque[Future[Outcome] | Outcome], *, at_once: bool = False
) -> Iterator[Outcome]:
    """Those that wait, in their order; `at_once`: as far as they are there."""
    while waiting:
        first = waiting[0]
        if at_once and isinstance(first, Future) and not first.done():
            return
        waiting.popleft()
        yield first.result() if isinstance(first, Future) else first


def work_on(
    piece: Piece, assignment: Assignment, backend: Backend, files: Files
) -> Generator[Step]:
    """Make the parts of a piece; one step for each, and a last outcome that is finished.

    Errors of the project become failures; others are defects, and raised.
    """
    sink = Sink(assignment.folder, files)
    try:
        with open_events(piece.source.path) as file:
            refuse_other_geometry(file, backend)
            for first, chunks in _parts(file, piece, assignment.recipe):
                if first in piece.known:
                    continue
                name = part_name(assignment.recipe, piece.source, first)
                part = sink.published(name, first)
                if part is not None:
                    yield Outcome(piece, (part,), finished=False)
                    continue
                draft = sink.fill(
                    name,
                    first,
                    _Filling(chunks, _dead_of(piece, assignment), assignment, backend),
                    source=piece.source.path.name,
                    synthetic=file.synthetic,
                )
                yield Filled(piece, draft)
            notes = file.notes
    except XecError as error:
        yield Outcome(piece, failure=failure_of(error))
        return
    yield Outcome(piece, notes=notes)


def failure_of(error: XecError) -> Failure:
    """An error as it travels between processes."""
    return Failure(str(error), ends_all(error), error.exit_code)


def _dead_of(piece: Piece, assignment: Assignment) -> Dead:
    lists = piece.source.lists
    return assignment.dead if lists is None else lists


@dataclass(frozen=True, slots=True)
class _Filling:
    """Reconstructs the events of a part into a writer."""

    chunks: Iterable[EventChunk]
    dead: Dead
    assignment: Assignment
    backend: Backend

    def __call__(self, writer: ResultWriter) -> int:
        rows = 0
        works = works_of(self.chunks, self.dead)
        answered = ordered_map(self.backend.reconstruct, works, self.assignment.in_flight)
        for work, answers in answered:
            _refuse_other_model(answers, self.assignment.recipe)
            writer.write(work.events, answers)
            rows += len(answers)
        return rows


def _refuse_other_model(answers: Sequence[Reconstruction], recipe: Recipe) -> None:
    for answer in answers:
        found = answer.provenance.model_sha256
        if found != recipe.model_sha256:
            raise ModelChanged(
                f"Answers come from model {found[:12]}… now, not from {recipe.model_sha256[:12]}… "
                "any more: start again, which makes a lineage of its own."
            )


def _parts(
    file: EventSource, piece: Piece, recipe: Recipe
) -> Iterator[tuple[int, Iterable[EventChunk]]]:
    """First entry and chunks of each part of a piece."""
    size, step = recipe.batch_size, recipe.part_events
    if isinstance(file, EventFile):
        assert piece.stop is not None
        for start in range(piece.start, max(piece.stop, piece.start + 1), step):
            stop = min(start + step, piece.stop)
            yield start, file.chunks(size, entry_start=start, entry_stop=stop)
        return
    none = True
    for first, group in groupby(_cut(file.chunks(size), step), key=lambda cut: cut[0]):
        none = False
        yield first, (chunk for _, chunk in group)
    if none:
        yield 0, ()


def _cut(chunks: Iterable[EventChunk], step: int) -> Iterator[tuple[int, EventChunk]]:
    """Chunks, cut where a part ends, with the first entry of their part."""
    entry = 0
    for chunk in chunks:
        done = 0
        while done < len(chunk):
            first = entry // step * step
            cut = chunk[slice(done, done + first + step - entry)]
            yield first, cut
            done += len(cut)
            entry += len(cut)


@dataclass(slots=True)
class _Backends:
    """Backends of this process, opened once and kept for all pieces."""

    stack: ExitStack = field(default_factory=ExitStack)
    known: dict[AnyPlace, Backend] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, place: AnyPlace) -> Backend:
        with self.lock:
            if place not in self.known:
                if not self.known:
                    atexit.register(self.stack.close)
                self.known[place] = self.stack.enter_context(place.open())
            return self.known[place]


_BACKENDS: Final = _Backends()


def work_remotely(piece: Piece, assignment: Assignment) -> Outcome:
    """A task of a Dask worker: the whole piece, its parts told at the end.

    Running it twice, at the same time or after another, changes nothing.
    """
    expected = assignment.recipe.software_version
    if expected != __version__:
        reason = f"A worker runs version {__version__}, not {expected}: install the same version."
        return Outcome(piece, failure=Failure(reason, ends_all=True))
    try:
        backend = _BACKENDS.of(assignment.place)
    except XecError as error:
        reason = f"A worker cannot start: {error}"
        return Outcome(piece, failure=Failure(reason, ends_all=True, exit_code=error.exit_code))
    parts: list[Part] = []
    with closing(work_on(piece, assignment, backend, DiskFiles())) as steps:
        for outcome in published(steps, None):
            parts += outcome.parts
            if outcome.finished or outcome.failure is not None:
                return Outcome(piece, tuple(parts), True, outcome.failure, outcome.notes)
    raise AssertionError("a piece ends with an outcome that is finished")
