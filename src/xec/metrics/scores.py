"""Whether a predicted standard deviation can be trusted: pulls, coverage and the CRPS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from xec.metrics.spread import half68, rms

Floats = NDArray[np.floating[Any]]


def gaussian_crps(error: Floats, sigma: Floats) -> NDArray[np.float64]:
    """Continuous ranked probability score of normal predictions, in the unit of the error.

    sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) with z = error / sigma; smaller is better,
    and sigma -> 0 gives the absolute error. Source: Gneiting and Raftery, J. Am. Stat. Assoc. 102,
    359 (2007), section 4.2.

    Args:
        error: value minus prediction, (n,).
        sigma: predicted standard deviations, (n,), positive.
    """
    z = np.asarray(error, dtype=np.float64) / sigma
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    score = sigma * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return np.asarray(score, dtype=np.float64)


def normal_half_width(level: float) -> float:
    """Half of the central interval of a normal distribution that holds `level`, in sigmas."""
    return float(ndtri((1 + level) / 2))


def coverage(pull: Floats, level: float, scale: float = 1.0) -> float:
    """Share of pulls (n,) inside the normal interval that should hold `level`; NaN for none.

    Args:
        pull: error over predicted standard deviation.
        level: of the interval, between 0 and 1.
        scale: factor by which the interval is widened, as by calibration.
    """
    if len(pull) == 0:
        return math.nan
    return float(np.mean(np.abs(pull) < normal_half_width(level) * scale))


def calibration_curve(pull: Floats, levels: Sequence[float]) -> list[float]:
    """Observed coverage at each of the expected `levels`."""
    return [coverage(pull, level) for level in levels]


def pull_width(pull: Floats) -> tuple[float, float]:
    """Half of the central 68.27 % of the pulls (n,), and their RMS; both 1 when all is right.

    The first tells of the core, the second of the tails.
    """
    return half68(pull), rms(pull)
