"""Handing pieces to Dask's workers, and what becomes of those whose workers die."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, Final

import distributed
from distributed.scheduler import KilledWorker

from xec.errors import ServiceError
from xec_client.reprocess.plan import Piece
from xec_client.reprocess.worker import Assignment, Failure, Outcome, work_remotely

RETRIES: Final = 2
"""Further tries of a piece whose worker raised what is no error of the project."""

MOST_LOSSES: Final = 5
"""How often the result of a piece may be lost with its worker before the cluster is given up."""

LEAST_AHEAD: Final = 4
LOST: Final = "The Dask scheduler, or all its workers, were lost: start again to go on."
POLL_SECONDS: Final = 0.01
LOOK_SECONDS: Final = 1.0
"""Pieces under way at the same time, if there are few workers."""


@dataclass(slots=True)
class Feeding:
    """Pieces on a client's workers.

    A piece whose workers died is suspected only: it may have waited on a worker that another
    piece brought down. So the suspects run again at the end, each with all workers for itself.

    Args:
        client: of a cluster that has a worker.
        assignment: what workers are told.
        patience: seconds to go on without scheduler or workers.
    """

    client: distributed.Client
    assignment: Assignment
    patience: float = 600.0
    _suspects: list[Piece] = field(default_factory=list)
    _losses: Counter[Piece] = field(default_factory=Counter)

    def run(self, pieces: Iterable[Piece]) -> Generator[Outcome]:
        """The outcomes of all pieces, as they come."""
        yield from self._side_by_side(iter(pieces), alone=False)
        guilty: set[str] = set()
        for piece in self._suspects:
            if piece.source.identity in guilty:
                yield Outcome(piece, failure=_killed(piece))
                continue
            for outcome in self._side_by_side(iter([piece]), alone=True):
                if outcome.failure is not None:
                    guilty.add(piece.source.identity)
                yield outcome

    def _side_by_side(self, pieces: Iterator[Piece], *, alone: bool) -> Generator[Outcome]:
        under_way: dict[Any, Piece] = {}
        done = distributed.as_completed(raise_errors=False)
        again: list[Piece] = []
        while True:
            while len(under_way) < self._ahead():
                piece = again.pop() if again else next(pieces, None)
                if piece is None:
                    break
                future = self._submit(piece)
                under_way[future] = piece
                done.add(future)
            if not under_way:
                return
            if not self._wait(done):
                yield Outcome(next(iter(under_way.values())), failure=_lost())
                return
            future = next(done)
            piece = under_way.pop(future)
            try:
                yield self._outcome(future)
            except KilledWorker:
                if alone:
                    yield Outcome(piece, failure=_killed(piece))
                else:
                    self._suspects.append(piece)
            except CancelledError:
                again.append(piece)
                self._losses[piece] += 1
                if self._losses[piece] > MOST_LOSSES or not self._is_there():
                    yield Outcome(piece, failure=_lost())
            except ImportError as error:
                yield Outcome(piece, failure=_lacking(error))

    def _wait(self, done: Any) -> bool:
        """Wait for a result; False: for too long there was nobody who could give one."""
        looked = good = time.monotonic()
        while not done.has_ready():
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            if now - looked < LOOK_SECONDS:
                continue
            looked = now
            if not self._is_there():
                return False
            if self._threads():
                good = now
            elif now - good > self.patience:
                return False
        return True

    def _threads(self) -> int:
        try:
            return sum(self.client.nthreads().values())
        except (OSError, TimeoutError):  # the scheduler is away
            return 0

    def _ahead(self) -> int:
        return max(LEAST_AHEAD, 2 * self._threads())

    def _submit(self, piece: Piece) -> Any:
        return self.client.submit(
            work_remotely, piece, self.assignment, pure=False, retries=RETRIES
        )

    def _outcome(self, future: Any) -> Outcome:
        """What came of a piece.

        Raises:
            KilledWorker: its workers died.
            CancelledError: its result was lost, with its worker or with the scheduler.
            ImportError: the workers lack a package.
            RuntimeError: the worker raised something else, a defect.
        """
        if future.status == "error":
            error = future.exception()
            if isinstance(error, KilledWorker | CancelledError | ImportError):
                raise error
            raise RuntimeError(f"A worker failed: {error!r}") from error
        if future.status != "finished":
            raise CancelledError
        outcome: Outcome = future.result()
        return outcome

    def _is_there(self) -> bool:
        """Whether the scheduler still answers."""
        return bool(self.client.status == "running")


def _killed(piece: Piece) -> Failure:
    return Failure(f"{piece.source.path}: the workers that had it died, one after the other.")


def _lost() -> Failure:
    return Failure(LOST, ends_all=True, exit_code=ServiceError.exit_code)


def _lacking(error: ImportError) -> Failure:
    reason = f"The Dask workers lack a package: {error}; install xec-reconstruct[offline] there."
    return Failure(reason, ends_all=True, exit_code=ServiceError.exit_code)
