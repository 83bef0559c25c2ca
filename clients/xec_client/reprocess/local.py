"""Working on pieces in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from xec_client.reprocess.files import DiskFiles, Files
from xec_client.reprocess.plan import Piece
from xec_client.reprocess.worker import Assignment, Outcome, work_on


@dataclass(frozen=True, slots=True)
class InProcess:
    """One piece after the other; the engine uses all cores.

    Args:
        files: the disk.
    """

    files: Files = field(default_factory=DiskFiles)

    def run(self, pieces: Iterator[Piece], assignment: Assignment) -> Generator[Outcome]:
        """The outcomes of all pieces in their order; without pieces no model is loaded.

        Raises:
            XecError: the place has no model, or no server.
        """
        first = next(pieces, None)
        if first is None:
            return
        with assignment.place.open() as backend:
            yield from work_on(first, assignment, backend, self.files)
            for piece in pieces:
                yield from work_on(piece, assignment, backend, self.files)
