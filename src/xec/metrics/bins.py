"""Bins that hold enough events: too few say nothing, and join their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

LEAST: Final = 50
"""Events in a bin; with fewer a width is known to no better than some 15 %."""


@dataclass(frozen=True, slots=True, eq=False)
class Bin:
    """Rows whose coordinate lies from `low` up to `high`, and where on average.

    `parts` is how many bins were joined, 1 if it held enough by itself.
    """

    low: float
    high: float
    centre: float
    rows: NDArray[np.int64]
    parts: int


def merged_bins(coordinate: Floats, edges: Sequence[float], least: int = LEAST) -> list[Bin]:
    """Rows by bins of a coordinate; a bin with fewer than `least` rows joins the next ones.

    What is left over at the end joins the last bin. Empty bins do not widen others at either
    end. Rows outside the edges, or NaN, are in no bin; there is no bin at all where all rows
    together are fewer than `least`.

    Args:
        coordinate: (n,).
        edges: ascending; a bin holds its lower edge, the last one its upper edge as well.
        least: rows that a bin needs.
    """
    place = np.searchsorted(edges, coordinate, side="right") - 1
    place[coordinate == edges[-1]] = len(edges) - 2
    count = np.bincount(place[(place >= 0) & (place < len(edges) - 1)], minlength=len(edges) - 1)
    groups: list[list[int]] = []
    pending: list[int] = []
    for number in np.flatnonzero(count).tolist():
        pending.append(number)
        if count[pending].sum() >= least:
            groups.append(pending)
            pending = []
    if pending and groups:
        groups[-1] += pending
    return [_bin(coordinate, place, edges, group) for group in groups]


def _bin(
    coordinate: Floats, place: NDArray[np.int64], edges: Sequence[float], group: list[int]
) -> Bin:
    rows = np.flatnonzero(np.isin(place, group))
    low, high = edges[group[0]], edges[group[-1] + 1]
    return Bin(low, high, float(coordinate[rows].mean()), rows, len(group))
