"""The intervals that are served with a model's estimates, as multiples of its sigmas."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.contract import GAMMA_ESTIMATES
from xec.engines.base import ModelInfo
from xec.metrics.scores import normal_half_width
from xec.reliability.intervals import LEVELS
from xec_evaluation.quantities import COMPONENTS

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

DEPTH: Final = COMPONENTS.index("w")


def gamma_scales(model: ModelInfo, estimate: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Half of the 68 % and of the 95 % intervals in sigmas, (n, 7) each.

    Calibrated factors in bins of the predicted depth where the model holds them; otherwise its
    plain factor for 68 %, and for both the normal distribution's.

    Args:
        model: what is evaluated.
        estimate: the network's rows (n, 7), see `quantities.COMPONENTS`.
    """
    first, second = (_gamma_scale(model, estimate[:, DEPTH], level) for level in LEVELS)
    return first, second


def _gamma_scale(model: ModelInfo, depth: FloatArray, level: float) -> FloatArray:
    intervals = model.reliability.intervals
    parts = []
    for estimate in GAMMA_ESTIMATES:
        scale = np.full((len(depth), estimate.width), _plain(model, estimate.name, level))
        if intervals is not None:
            place = np.searchsorted(intervals.depth_edges, depth, side="right")
            for number in np.unique(place):
                rows = place == number
                factors = intervals.gamma_scale(estimate.name, float(depth[rows][0]), level)
                if factors is not None:
                    scale[rows] = factors
        parts.append(scale)
    return np.concatenate(parts, axis=1)


def _plain(model: ModelInfo, name: str, level: float) -> float:
    if level == LEVELS[0]:
        return model.interval_scale.get(name, normal_half_width(level))
    return normal_half_width(level)


def sensor_scales(
    model: ModelInfo, light: FloatArray, is_mppc: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """The same for counts of sensors, (n,) each.

    Args:
        model: what is evaluated.
        light: that it predicts, photons, (n,).
        is_mppc: whether the sensors are on the inner face, (n,).
    """
    first, second = (_sensor_scale(model, light, is_mppc, level) for level in LEVELS)
    return first, second


def _sensor_scale(
    model: ModelInfo, light: FloatArray, is_mppc: BoolArray, level: float
) -> FloatArray:
    intervals = model.reliability.intervals
    if intervals is not None:
        factors = intervals.sensor_scale("npho", light, is_mppc, level)
        if factors is not None:
            return factors
    return np.full(len(light), _plain(model, "npho", level))
