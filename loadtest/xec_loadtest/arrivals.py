"""When events are to be sent, decided before the first one is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Times: TypeAlias = NDArray[np.float64]


class Arrivals(Enum):
    """How intended send times lie."""

    POISSON = "poisson"
    FIXED = "fixed"


def schedule(kind: Arrivals, rate: float, seconds: float, seed: int) -> Times:
    """Intended send times (events,) in seconds from 0 to before `seconds`.

    Args:
        kind: POISSON has independent exponential gaps, as triggers of a detector; FIXED equal ones.
        rate: events per second in the mean.
        seconds: length.
        seed: of the Poisson process.
    """
    if kind is Arrivals.FIXED:
        return np.arange(int(np.ceil(rate * seconds))) / rate
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    generator = np.random.default_rng(seed)
    return np.sort(generator.uniform(0, seconds, generator.poisson(rate * seconds)))


def poisson_gaps(rate: float) -> Iterator[float]:
    """Exponential gaps in seconds without end."""
    while True:
        yield random.expovariate(rate)


class Pacer:
    """Intended times of one sender that waits for its answers; what is late is not skipped.

    A sender that only waits between its answer and the next event slows down with the server, and
    so measures less of what is slow. This one keeps to its times, and a latency that is counted
    from `due` includes what was held up.

    Args:
        gaps: between intended times, in seconds.
        now: a clock in seconds.
    """

    def __init__(self, gaps: Iterator[float], now: Callable[[], float]) -> None:
        self._gaps = gaps
        self._now = now
        self.due = now()

    def next_wait(self) -> float:
        """Advance to the next intended time; seconds until then, 0 where it has passed."""
        self.due += next(self._gaps)
        return max(0.0, self.due - self._now())
