"""Working on pieces in this process: a part is published while the next one is computed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain

from xec_client.reprocess.files import DiskFiles, Files
from xec_client.reprocess.plan import Piece
from xec_client.reprocess.worker import Assignment, Outcome, published, work_on


@dataclass(frozen=True, slots=True)
class InProcess:
    """One piece after the other; the engine uses all cores.

    Args:
        files: the disk.
        beside: whether a part is published by a thread of its own.
    """

    files: Files = field(default_factory=DiskFiles)
    beside: bool = True

    def run(self, pieces: Iterator[Piece], assignment: Assignment) -> Generator[Outcome]:
        """The outcomes of all pieces in their order; without pieces no model is loaded.

        Raises:
            XecError: the place has no model, or no server.
        """
        first = next(pieces, None)
        if first is None:
            return
        with assignment.place.open() as backend, self._publishing() as publish:
            steps = (
                step
                for piece in chain([first], pieces)
                for step in work_on(piece, assignment, backend, self.files)
            )
            with closing(steps):
                yield from published(steps, publish)

    @contextmanager
    def _publishing(self) -> Iterator[Executor | None]:
        """A thread, or None; at the end what was handed to it is published."""
        if not self.beside:
            yield None
            return
        with ThreadPoolExecutor(1, thread_name_prefix="xec-publish") as publish:
            yield publish
