"""The knee: the highest rate that a server holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from xec_loadtest.latency import Point

GOOD: Final = 0.99
"""Of the offered events are to be answered within the limit."""

LIMIT: Final = 5.0
"""The limit, in medians of the unloaded server."""


@dataclass(frozen=True, slots=True)
class Knee:
    """Where a curve bends.

    Args:
        rate: highest measured rate that is held, events/s.
        next_rate: the next measured one, which is not; None where none was measured: the knee
            lies higher.
    """

    rate: float
    next_rate: float | None


def holds(point: Point) -> bool:
    """Whether at least 99 % of the offered events were answered within the limit.

    An event that is refused, late or slow counts against the server; the generator's own lateness
    makes a point that says nothing.
    """
    return point.valid and point.good_share >= GOOD


def find_knee(points: Sequence[Point]) -> Knee | None:
    """The highest rate that is held; None where none is.

    A lower rate that is not held, for some work beside, does not count against a higher one that
    is. Points that are not valid are left out.

    Args:
        points: in any order.
    """
    believed = sorted((point for point in points if point.valid), key=lambda point: point.offered)
    held = [point.offered for point in believed if holds(point)]
    if not held:
        return None
    above = [point.offered for point in believed if point.offered > held[-1]]
    return Knee(held[-1], above[0] if above else None)
