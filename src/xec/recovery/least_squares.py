"""Linear least squares on the core of a distribution: how the conventional constants are fitted.

Leakage and late showers leave tails on one side, which would pull every constant away from
where most events are. Rows further than `TRIM` times half of the central 68 % from the median
residual are left out, and the fit is repeated until the choice has settled.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.errors import UsageError

Floats = NDArray[np.float64]

TRIM: Final = 2.0
PASSES: Final = 10


def half_width68(values: Floats) -> float:
    """Half of the width of the central 68.27 % of values (n,)."""
    low, high = np.quantile(values, (0.15865, 0.84135))
    return float(high - low) / 2


def trimmed_least_squares(features: Floats, target: Floats) -> tuple[float, ...]:
    """Coefficients (k,) that minimise the squared residuals of the core.

    Args:
        features: (n, k); rows that are not finite are left out.
        target: (n,).

    Raises:
        UsageError: fewer than ten rows for each coefficient.
    """
    known = np.isfinite(features).all(axis=1) & np.isfinite(target)
    features, target = features[known], target[known]
    if len(target) < 10 * features.shape[1]:
        raise UsageError(
            f"{len(target)} usable events cannot fix {features.shape[1]} constants; "
            "simulate at least ten events for each constant."
        )
    core = np.ones(len(target), dtype=np.bool_)
    for _ in range(PASSES):
        solution = np.linalg.lstsq(features[core], target[core], rcond=None)[0]
        residual = target - features @ solution
        distance = np.abs(residual - np.median(residual))
        core = distance <= TRIM * half_width68(residual)
        if not core.any():  # an exact solution: no residual has any width
            break
    return tuple(float(value) for value in solution)
