"""The course of a reprocessing: which pieces are due, what came of them, and the state of each run.

Only this side writes the manifest; workers publish parts and tell about them. A part that was
published by a process that was killed before its row was written is read back by the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from xec.errors import IncompleteError, XecError
from xec_client.reprocess.lineage import Recipe
from xec_client.reprocess.manifest import Contents, Manifest
from xec_client.reprocess.plan import Piece, pieces_of
from xec_client.reprocess.sink import Part
from xec_client.reprocess.sources import Source, refuse_changed
from xec_client.reprocess.states import RunState, RunStatus, first_status, key_of
from xec_client.reprocess.worker import Assignment, Failure, Outcome, failure_of


class Executor(Protocol):
    """Who works on pieces: this process, or a cluster."""

    def run(self, pieces: Iterator[Piece], assignment: Assignment) -> Generator[Outcome]:
        """The outcomes of all pieces, in any order; pieces are taken when there is room."""
        ...


@dataclass(slots=True)
class _Open:
    """An input that is being worked on."""

    source: Source
    status: RunStatus
    pieces: int = 0  # that are not finished
    planned: bool = False  # no more pieces come
    failure: Failure | None = None
    notes: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Course:
    """One call of `xec reprocess`.

    Args:
        sources: all inputs.
        recipe: what decides the results.
        folder: of the lineage.
        manifest: open for appending.
        contents: what it said at the beginning.
        most_attempts: after so many failures a run is abandoned.
        again: try abandoned runs once more.
    """

    sources: Sequence[Source]
    recipe: Recipe
    folder: Path
    manifest: Manifest
    contents: Contents
    most_attempts: int = 3
    again: bool = False
    made: int = 0  # events in parts that this call published or found
    _open: dict[str, _Open] = field(default_factory=dict)

    def run(
        self, executor: Executor, assignment: Assignment, advance: Callable[[int], None]
    ) -> None:
        """Bring every input to its end.

        Args:
            executor: who works.
            assignment: what workers are told.
            advance: called with numbers of events that are done.

        Raises:
            XecError: something failed that is not the fault of one input; what was done is kept.
        """
        with closing(executor.run(self._pieces(), assignment)) as outcomes:
            for outcome in outcomes:
                advance(self._take(outcome))

    def _pieces(self) -> Iterator[Piece]:
        for source in self.sources:
            if not self._is_due(source):
                continue
            run = _Open(source, self.status_of(source))
            self._open[key_of(source)] = run
            for piece in self._plan(run):
                if run.failure is None:
                    run.pieces += 1
                    yield piece
            run.planned = True
            self._conclude(run)

    def _is_due(self, source: Source) -> bool:
        state = self.status_of(source).state
        if state is RunState.ABANDONED:
            return self.again
        if state is not RunState.DONE:
            return True
        parts = self.contents.parts_of(source.identity)
        return len(self._present(source)) < len(parts)

    def _present(self, source: Source) -> frozenset[int]:
        """First entries of the parts that are in the manifest and there."""
        return frozenset(
            part.first
            for part in self.contents.parts_of(source.identity).values()
            if self._is_there(part)
        )

    def _is_there(self, part: Part) -> bool:
        path = self.folder / part.name
        return path.is_file() and path.stat().st_size == part.size

    def status_of(self, source: Source) -> RunStatus:
        """The state of an input, as last written."""
        return self.contents.runs.get(key_of(source), first_status(source))

    def _plan(self, run: _Open) -> list[Piece]:
        """The pieces of a run; none where its file cannot be opened, which is its failure."""
        self._say(run, run.status.now(RunState.CONSIDERING))
        if run.source.problem:
            run.failure = Failure(run.source.problem)
            return []
        try:
            pieces = pieces_of(run.source, self.recipe, self._present(run.source))
        except XecError as error:
            run.failure = failure_of(error)
            return []
        self._say(run, run.status.now(RunState.BUSY))
        return pieces

    def _say(self, run: _Open, status: RunStatus) -> None:
        self.manifest.add_state(status)
        self.contents.runs[status.identity] = status
        run.status = status

    def _take(self, outcome: Outcome) -> int:
        """Write down what came of a piece; returns events that are done."""
        run = self._open[key_of(outcome.piece.source)]
        for part in outcome.parts:
            self.manifest.add_part(run.source.identity, part)
            self.contents.parts.setdefault(run.source.identity, {})[part.name] = part
        if outcome.failure is not None:
            if outcome.failure.ends_all:
                raise _stopped(outcome.failure)
            run.failure = run.failure or outcome.failure
        run.notes.update(dict.fromkeys(outcome.notes))
        if outcome.finished:
            run.pieces -= 1
            self._conclude(run)
        rows = sum(part.rows for part in outcome.parts)
        self.made += rows
        return rows

    def _conclude(self, run: _Open) -> None:
        """Say what became of a run, once nothing of it is under way."""
        if run.pieces or not run.planned:
            return
        if run.failure is None:
            try:
                refuse_changed(run.source)
            except XecError as error:
                run.failure = failure_of(error)
        if run.failure is None:
            self._say(run, run.status.now(RunState.DONE, tuple(run.notes)))
        else:
            self._say(run, run.status.failed(run.failure.reason, self.most_attempts))
        del self._open[key_of(run.source)]

    def states(self) -> Counter[RunState]:
        """How many inputs are in each state."""
        return Counter(self.status_of(source).state for source in self.sources)

    def refuse_failed(self) -> None:
        """Tell about the runs that are not done.

        Raises:
            IncompleteError: there are some.
        """
        failed = [s for s in map(self.status_of, self.sources) if s.state is not RunState.DONE]
        if failed:
            raise IncompleteError(
                f"{len(failed)} of {len(self.sources)} runs failed, the first one because: "
                f"{failed[0].reason}"
            )


def _stopped(failure: Failure) -> XecError:
    error = XecError(failure.reason)
    error.exit_code = failure.exit_code
    return error
