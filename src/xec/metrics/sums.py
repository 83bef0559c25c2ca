"""Sums of errors in groups, as a stream: mean sizes and biases without keeping the values."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
FloatArray = NDArray[np.float64]

BRIGHT: Final = 100.0
"""Photons; relative errors are quoted for sensors with at least this much light (FACTS 4)."""


class ErrorSums:
    """Counts, MAE, RMSE, bias and relative MAE in groups, of any number of values.

    Each property is an array (groups,), NaN for a group without values. What a method left
    unanswered (NaN) is counted in `missing` and nowhere else.

    Args:
        groups: how many.
    """

    def __init__(self, groups: int) -> None:
        self.count = np.zeros(groups, dtype=np.int64)
        self.missing = np.zeros(groups, dtype=np.int64)
        self.bright = np.zeros(groups, dtype=np.int64)
        self._signed, self._absolute, self._square, self._relative = np.zeros((4, groups))

    def add(self, group: NDArray[np.integer[Any]], error: Floats, truth: Floats) -> None:
        """Add n values.

        Args:
            group: (n,), 0 up to `groups` - 1.
            error: estimate minus truth, (n,); NaN where there is no estimate.
            truth: (n,) photons.
        """
        groups = len(self.count)
        answered = np.isfinite(error)
        self.missing += np.bincount(group[~answered], minlength=groups)
        group, error = group[answered], np.asarray(error[answered], dtype=np.float64)
        truth = np.asarray(truth[answered], dtype=np.float64)
        self.count += np.bincount(group, minlength=groups)
        self._signed += np.bincount(group, error, groups)
        self._absolute += np.bincount(group, np.abs(error), groups)
        self._square += np.bincount(group, error * error, groups)
        bright = truth >= BRIGHT
        self.bright += np.bincount(group[bright], minlength=groups)
        relative = np.abs(error[bright]) / truth[bright]
        self._relative += np.bincount(group[bright], relative, groups)

    @property
    def bias(self) -> FloatArray:
        """Mean error."""
        return _quotient(self._signed, self.count)

    @property
    def mae(self) -> FloatArray:
        """Mean size of the error."""
        return _quotient(self._absolute, self.count)

    @property
    def rmse(self) -> FloatArray:
        """Root of the mean square of the error."""
        return np.sqrt(_quotient(self._square, self.count))

    @property
    def relative(self) -> FloatArray:
        """Mean of |error| / truth for truth of at least `BRIGHT` photons."""
        return _quotient(self._relative, self.bright)


def _quotient(total: FloatArray, count: NDArray[np.int64]) -> FloatArray:
    quotient: FloatArray = np.full(len(total), np.nan)
    np.divide(total, count, out=quotient, where=count > 0)
    return quotient
