"""Half widths of the intervals in units of sigma, by split-conformal prediction in bins.

The ceil((n + 1) level)-th smallest of n scores |y - mu| / sigma covers a fresh one with at least
that probability, whatever the distribution, if they are exchangeable (Angelopoulos and Bates,
arXiv:2107.07511). The sensors of an event are not independent: a wrong idea of the gamma puts
all of them wrong. So each event gives one of its dead sensors, drawn at random, to each bin; this
is the subsampling of groups of Dunn, Wasserman and Ramdas (arXiv:1809.07441), which covers a
sensor of a fresh event. Counted one by one, a few events of many dead sensors would decide.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.contract import SENSOR_ESTIMATES
from xec.metrics.scores import normal_half_width
from xec.reliability.intervals import LEVELS, Intervals
from xec_training.calibration_sample import COLUMNS, Sample
from xec_training.sigma_curves import EDGES

FloatArray = NDArray[np.float64]

LEAST: Final = 100
"""Events that a bin needs: the coverage is then known to 5 %; else all bins together serve."""


def conformal_quantile(scores: FloatArray, level: float) -> float:
    """The ceil((n + 1) level)-th smallest score: at least `level` on exchangeable data."""
    n = len(scores)
    rank = min(n, math.ceil((n + 1) * level))
    return float(np.partition(scores, rank - 1)[rank - 1])


def fit_intervals(sample: Sample, seed: int) -> Intervals:
    """Factors from events that the scales have not seen.

    Args:
        sample: what the network says with its scales.
        seed: of the sensors that are drawn.
    """
    depth, light = np.array(EDGES["depth"][1:-1]), np.array(EDGES["light"][1:-1])
    gamma = {}
    if len(sample.error):
        place = np.searchsorted(depth, sample.uvw[:, 2], side="right")
        factors = [
            _factors([column[place == k] for k in range(len(depth) + 1)], column)
            for column in np.abs(sample.pull).T
        ]
        stacked = np.stack(factors, axis=-1)  # (levels, bins, 7)
        gamma = {name: stacked[..., columns] for name, columns in COLUMNS.items()}
    sensors = {}
    for column, estimate in enumerate(SENSOR_ESTIMATES):
        score = np.abs(sample.sensor_pull[:, column])
        if np.isfinite(score).any():
            kinds = (sample.is_mppc, ~sample.is_mppc)
            sensors[estimate.name] = np.stack(
                [_sensor_factors(sample, score, kind, light, seed) for kind in kinds], axis=1
            )
    return Intervals(depth, gamma, light, sensors)


def _sensor_factors(
    sample: Sample, score: FloatArray, kind: NDArray[np.bool_], light: FloatArray, seed: int
) -> FloatArray:
    """Factors (levels, bins) of one kind of sensor."""
    rng = np.random.default_rng(seed)
    place = np.searchsorted(light, sample.light, side="right")
    usable = kind & np.isfinite(score)
    bins = [
        score[one_per_event(sample.event, usable & (place == k), rng)]
        for k in range(len(light) + 1)
    ]
    return _factors(bins, score[one_per_event(sample.event, usable, rng)])


def one_per_event(
    event: NDArray[np.int64], chosen: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """One row of each event, drawn from the `chosen` ones.

    Args:
        event: (m,) of which event each row is.
        chosen: (m,) the rows to draw from.
        rng: random numbers.
    """
    rows = rng.permutation(np.flatnonzero(chosen))
    _, first = np.unique(event[rows], return_index=True)
    return np.asarray(rows[first])


def _factors(bins: list[FloatArray], together: FloatArray) -> FloatArray:
    """Factors (levels, bins); a bin with too few scores takes that of all together."""
    table = np.empty((len(LEVELS), len(bins)))
    for row, level in enumerate(LEVELS):
        whole = conformal_quantile(together, level) if len(together) else normal_half_width(level)
        table[row] = [conformal_quantile(b, level) if len(b) >= LEAST else whole for b in bins]
    return np.maximum(table, 1e-6)
