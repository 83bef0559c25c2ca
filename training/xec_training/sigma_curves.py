"""Scales of the sigmas: one factor per quantity, and curves where it depends on a prediction.

A factor is the 68.27 % quantile of |y - mu| / sigma, not its root mean square (METHODS,
"Uncertainty", 2): with tails that are longer than a normal distribution's, the mean square would
make the core's sigmas too large, and the 95 % interval has a factor of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.metrics.spread import ONE_SIGMA
from xec.models.calibration import GAMMA_AXES, SENSOR_AXES, Curve
from xec_training.calibration_sample import Sample

FloatArray = NDArray[np.float64]

LEAST: Final = 200
"""Events that a bin needs: the quantile is then known to 7 %."""

ROUNDS: Final = 4  # of fitting one axis after the other

EDGES: Final[Mapping[str, Sequence[float]]] = {
    "depth": (-10.0, 0.7, 1.2, 1.8, 2.6, 3.6, 5.0, 7.5, 11.0, 60.0),
    "u": (0.0, 8.0, 16.0, 20.0, 22.5, 24.0, 40.0),
    "v": (0.0, 20.0, 40.0, 55.0, 62.0, 66.0, 68.0, 100.0),
    "light": (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 1e7),
}
"""Bins of the axes: cm, photons. |u| and |v| are fine where the acceptance ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """Factors of all sigmas.

    Args:
        gamma: (7,) of the gamma's components; None where there is no truth.
        sensors: (2,) of count and time; NaN where no reading is known.
        curves: relative to these.
    """

    gamma: FloatArray | None
    sensors: FloatArray
    curves: dict[str, Curve]


def fit_scales(sample: Sample) -> Scales:
    """The scales that make the pulls of a sample one standard deviation wide."""
    curves: dict[str, Curve] = {}
    gamma = None
    if len(sample.error):
        places = dict(zip(GAMMA_AXES, gamma_places(sample.uvw), strict=True))
        rows = np.arange(len(sample.error))
        gamma, found = _backfit(np.abs(sample.pull), places, rows)
        curves |= found
    sensors = _quantile(np.abs(sample.sensor_pull))
    pull = np.abs(sample.sensor_pull) / sensors
    for axis, chosen in zip(SENSOR_AXES, (sample.is_mppc, ~sample.is_mppc), strict=True):
        light = np.log1p(sample.light[chosen].clip(min=0.0))
        _, found = _backfit(pull[chosen], {axis: light}, sample.event[chosen], overall=False)
        curves |= found
    if not set(SENSOR_AXES) <= set(curves):
        curves = {name: curve for name, curve in curves.items() if name in GAMMA_AXES}
    return Scales(gamma, sensors, curves)


def gamma_places(uvw: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coordinates (n,) of the gamma's axes for predicted positions (n, 3)."""
    return uvw[:, 2], np.abs(uvw[:, 0]), np.abs(uvw[:, 1])


def _edges(axis: str) -> FloatArray:
    return np.log1p(EDGES["light"]) if axis in SENSOR_AXES else np.array(EDGES[axis])


def _quantile(pull: FloatArray) -> FloatArray:
    """68.27 % quantile of each column (C,), without the NaN; NaN for an empty column."""
    known = [column[np.isfinite(column)] for column in pull.T]
    return np.array([np.quantile(k, ONE_SIGMA) if len(k) else np.nan for k in known])


def _backfit(
    pull: FloatArray,
    places: Mapping[str, FloatArray],
    event: NDArray[np.int64],
    overall: bool = True,
) -> tuple[FloatArray, dict[str, Curve]]:
    """Overall factors (C,) and a curve per axis, whose product is the scale.

    Args:
        pull: (n, C) sizes of the pulls, NaN where there is none.
        places: (n,) coordinate per axis.
        event: (n,) of which event each row is: rows of one event count as one.
        overall: whether to fit the overall factors; they are 1 otherwise.
    """
    bins = {axis: _bins(place, _edges(axis)) for axis, place in places.items()}
    bins = {axis: found for axis, found in bins.items() if found}
    curves = {
        axis: Curve(
            np.array([np.median(places[axis][rows]) for rows in found]),
            np.ones((len(found), pull.shape[1])),
        )
        for axis, found in bins.items()
    }
    whole = _quantile(pull) if overall else np.ones(pull.shape[1])
    for _ in range(ROUNDS):
        for axis, found in bins.items():
            rest = pull / (whole * _product(curves, places))
            step = np.stack([_step(rest[rows], event[rows]) for rows in found])
            curves[axis] = Curve(curves[axis].knots, curves[axis].factors * step)
        if overall:
            whole = whole * _quantile(pull / (whole * _product(curves, places)))
    return whole, curves


def _bins(place: FloatArray, edges: FloatArray) -> list[NDArray[np.int64]]:
    """Rows of each bin that is not empty; what lies beyond the edges is in the outermost."""
    number = np.searchsorted(edges[1:-1], place, side="right")
    found = [np.flatnonzero(number == k) for k in range(len(edges) - 1)]
    return [rows for rows in found if len(rows)]


def _step(pull: FloatArray, event: NDArray[np.int64]) -> FloatArray:
    """Factors (C,) of a bin; 1, so that the overall one serves, where it has too few events."""
    enough = [len(np.unique(event[np.isfinite(column)])) >= LEAST for column in pull.T]
    return np.where(enough, _quantile(pull), 1.0)


def _product(curves: Mapping[str, Curve], places: Mapping[str, FloatArray]) -> FloatArray:
    factors = [curve.at(places[axis]) for axis, curve in curves.items()]
    return np.asarray(np.prod(factors, axis=0)) if factors else np.ones(1)
