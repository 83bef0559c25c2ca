"""How wide a distribution of errors is."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

ONE_SIGMA: Final = math.erf(math.sqrt(0.5))
"""Share of a normal distribution within one standard deviation, 0.6827."""


def shortest_interval(values: Floats, share: float = ONE_SIGMA) -> tuple[float, float]:
    """Ends of the smallest interval that holds `share` of the values; NaN where there are none.

    Args:
        values: (n,) in any order.
        share: of the values, above 0 and up to 1; rounded up to whole values.
    """
    count = len(values)
    if count == 0:
        return math.nan, math.nan
    held = min(max(math.ceil(share * count), 1), count)
    ordered = np.sort(values)
    widths = ordered[held - 1 :] - ordered[: count - held + 1]
    first = int(widths.argmin())
    return float(ordered[first]), float(ordered[first + held - 1])


def sigma_eff(values: Floats) -> float:
    """Half of the smallest interval that holds 68.27 % of the values (n,); NaN for none.

    Equals the standard deviation of a normal distribution and, unlike it, ignores the tails.
    """
    low, high = shortest_interval(values)
    return (high - low) / 2.0


def half68(values: Floats) -> float:
    """Half of the width of the central 68.27 % of the values (n,); NaN for none."""
    if len(values) == 0:
        return math.nan
    low, high = np.quantile(values, ((1 - ONE_SIGMA) / 2, (1 + ONE_SIGMA) / 2))
    return float(high - low) / 2.0


def within(errors: Floats, share: float) -> float:
    """The size that `share` of the errors (n,) do not exceed; NaN for none."""
    return math.nan if len(errors) == 0 else float(np.quantile(np.abs(errors), share))


def rms(values: Floats) -> float:
    """Root of the mean square of the values (n,); NaN for none."""
    if len(values) == 0:
        return math.nan
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
