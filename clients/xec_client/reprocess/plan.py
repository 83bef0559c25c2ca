"""What is to be done for an input: its parts, cut into pieces that workers can take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xec.io.events import open_events
from xec.io.root import EventFile
from xec_client.reprocess.lineage import Recipe
from xec_client.reprocess.sources import Source


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive parts of one input.

    Args:
        source: the input.
        start: first entry.
        stop: entry after the last one; None where only reading tells, and then all of the input.
        known: first entries of parts that are published and in the manifest.
    """

    source: Source
    start: int
    stop: int | None
    known: frozenset[int] = frozenset()


def pieces_of(source: Source, recipe: Recipe, known: frozenset[int]) -> list[Piece]:
    """The pieces of an input that are still to be made.

    A ROOT file gives one piece for each part, so that a long one occupies many workers. A MIDAS
    run can only be read from its beginning: it is one piece.

    Args:
        source: the input.
        recipe: tells how long parts are.
        known: first entries of the parts that are there.

    Raises:
        FileError: the file is missing, foreign, cut short or damaged.
    """
    with open_events(source.path) as file:
        if not isinstance(file, EventFile):
            return [Piece(source, 0, None, known)]
        count = len(file)
    ranges = _ranges(count, recipe.part_events)
    return [Piece(source, start, stop) for start, stop in ranges if start not in known]


def _ranges(count: int, step: int) -> Iterator[tuple[int, int]]:
    """First and last (excluded) entry of each part; no events at all are one empty part."""
    for start in range(0, max(count, 1), step):
        yield start, min(start + step, count)
