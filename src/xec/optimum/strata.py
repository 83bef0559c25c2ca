"""A few events that stand for many: sampled by size, weighted by what they stand for.

Errors on dead sensors are dominated by a few events, which a plain subset would miss.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FLOOR: Final = 0.1  # of the mean size that every event has at least


def inclusion(size: Array, count: int) -> Array:
    """Probabilities (B,) that an event is chosen, their sum `count`, at most 1 each.

    Proportional to `size` (B,), but for a floor that keeps weights bounded; events that would
    exceed 1 are certain.
    """
    if count >= len(size):
        return np.ones(len(size))
    size = size + _FLOOR * size.mean() + 1e-300
    certain = np.zeros(len(size), dtype=np.bool_)
    while True:
        rest = count - certain.sum()
        chance = np.where(certain, 1.0, rest * size / size[~certain].sum())
        if (chance <= 1.0).all():
            return chance
        certain |= chance > 1.0


def choose(size: Array, count: int, seed: int) -> tuple[NDArray[np.int64], Array]:
    """Rows (n,) of the chosen events and their weights 1 / probability (n,).

    Systematic sampling in random order (Madow, Ann. Math. Stat. 20 (1949) 333): weighted sums
    over the chosen are unbiased for sums over all.
    """
    random = np.random.default_rng(seed)
    chance = inclusion(size, count)
    order = random.permutation(len(size))
    edges = np.concatenate([[0.0], np.cumsum(chance[order])])
    start = random.random()
    hit = np.floor(edges[1:] - start + 1e-12) > np.floor(edges[:-1] - start + 1e-12)
    rows = np.sort(order[hit])
    return rows, 1.0 / chance[rows]


def importance(variance: Array, event: NDArray[np.int64], events: int) -> Array:
    """Size (events,) of events for errors both squared and absolute, from sensors' variances."""
    squared = np.bincount(event, variance, events)
    absolute = np.bincount(event, np.sqrt(variance), events)
    parts = [part / max(part.sum(), 1e-300) for part in (squared, absolute)]
    return np.asarray(0.5 * (parts[0] + parts[1]))
