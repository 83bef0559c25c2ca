"""Numbers read from a model's metadata, which anybody may have written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def finite(values: Any, name: str) -> FloatArray:
    """An array of finite numbers.

    Raises:
        ValueError: when it is none.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array


def positive(values: Any, name: str) -> FloatArray:
    """An array of finite numbers above zero.

    Raises:
        ValueError: when it is none.
    """
    array = finite(values, name)
    if not (array > 0).all():
        raise ValueError(f"{name} is not positive")
    return array


def ascending(values: Any, name: str) -> FloatArray:
    """A row of finite numbers, each larger than the one before.

    Raises:
        ValueError: when it is none.
    """
    array = finite(values, name)
    if array.ndim != 1 or not (np.diff(array) > 0).all():
        raise ValueError(f"{name} does not ascend")
    return array
