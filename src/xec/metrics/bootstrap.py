"""Standard errors by resampling.

Source: B. Efron, Ann. Statist. 7, 1 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

REPLICAS: Final = 200
"""Resamples; the standard error itself is then known to about 5 %."""


def bootstrap_error(
    statistic: Callable[[Floats], float], rows: Floats, *, seed: int, replicas: int = REPLICAS
) -> float:
    """Standard error of `statistic(rows)`; NaN for fewer than two rows.

    Rows must be independent of each other: one per event, not one per sensor.

    Args:
        statistic: of rows (n, ...).
        rows: (n, ...), resampled along the first axis.
        seed: equal seeds give equal answers.
        replicas: how many resamples.
    """
    count = len(rows)
    if count < 2:
        return math.nan
    random = np.random.default_rng(seed)
    values = [statistic(rows[random.integers(0, count, count)]) for _ in range(replicas)]
    return float(np.std(values, ddof=1))
