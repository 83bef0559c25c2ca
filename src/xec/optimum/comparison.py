"""Errors on dead sensors as ratios to the optimum, with errors from a bootstrap over events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

STATISTICS: Final = ("rms", "mean_absolute", "rms_in_noise")
"""Photons; photons; in units of the standard deviation of that sensor's reading."""

HALF_NORMAL: Final = float(np.sqrt(2.0 / np.pi))
"""Mean |x| of a standard normal."""

_REPLICAS: Final = 400


@dataclass(frozen=True, slots=True, eq=False)
class DeadSensors:
    """K dead sensors of `events` events, and how their readings would spread."""

    event: Ids  # (K,)
    variance: Array  # (K,) of a reading, photons squared
    events: int

    @property
    def count(self) -> Array:
        """Sensors (events,)."""
        return np.bincount(self.event, minlength=self.events).astype(np.float64)

    def of_errors(self, error: Array) -> Array:
        """Sums (events, 3) per event that `STATISTICS` are made of, for errors (K,)."""
        return self.of_spread(error**2, np.abs(error))

    def of_spread(self, squared: Array, absolute: Array) -> Array:
        """The same for expected squared and absolute errors (K,)."""
        rows = (squared, absolute, squared / self.variance)
        return np.stack([np.bincount(self.event, row, self.events) for row in rows], axis=1)


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure and its standard error."""

    value: float
    error: float


def statistics(sums: Array, count: Array) -> Array:
    """`STATISTICS` (3,) of sums (events, 3) over `count` (events,) sensors."""
    mean = np.atleast_2d(sums).sum(0) / count.sum()
    return np.asarray(np.sqrt(mean) * [1, 0, 1] + mean * [0, 1, 0])


def absolute(sums: Array, count: Array, seed: int = 0) -> dict[str, Measured]:
    """`STATISTICS` of one method, from sums (events, 3) over `count` (events,) sensors."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(count), (_REPLICAS, len(count)))
    replicas = [statistics(sums[row], count[row]) for row in rows]
    return _measured(statistics(sums, count), np.array(replicas))


def ratio(sums: Array, best: Array, weight: Array, seed: int = 0) -> dict[str, Measured]:
    """`STATISTICS` of one method over those of another, on the same sensors.

    Pairing them event by event keeps what they have in common, the few events that dominate
    both, out of the ratio's error.

    Args:
        sums: (events, 3) of the method.
        best: (events, 3) of what it is compared with.
        weight: (events,) how many events each stands for.
        seed: of the bootstrap.
    """
    random = np.random.default_rng(seed)

    def of(rows: Ids) -> Array:
        above, below = ((part[rows] * weight[rows, None]).sum(0) for part in (sums, best))
        return statistics(above / below, np.ones(1))

    n = len(weight)
    replicas = [of(random.integers(0, n, n)) for _ in range(_REPLICAS)]
    return _measured(of(np.arange(n)), np.array(replicas))


def half68(values: Array) -> Measured:
    """Half of the width of the central 68.27 % of values (n,), bootstrapped."""
    random = np.random.default_rng(0)
    n = len(values)
    replicas = [_half68(values[random.integers(0, n, n)]) for _ in range(100)]
    return Measured(_half68(values), float(np.std(replicas)))


def mixture_half68(deviation: Array) -> float:
    """The same for errors that are normal with these standard deviations (n,)."""
    random = np.random.default_rng(0)
    return _half68((deviation[:, None] * random.standard_normal((len(deviation), 50))).ravel())


def _half68(values: Array) -> float:
    low, high = np.quantile(values, (0.15865, 0.84135))
    return float(high - low) / 2.0


def _measured(value: Array, replicas: Array) -> dict[str, Measured]:
    error = replicas.std(0)
    return {name: Measured(float(value[i]), float(error[i])) for i, name in enumerate(STATISTICS)}
