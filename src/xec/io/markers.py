"""Marker values become validity bits here, and bits become markers in what is written.

Source: FACTS 3: 1e10 (test > 9e9) or NaN in inputs, -999 or NaN in outputs of other programs.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.contract import LARGEST_READING
from xec.errors import FileError
from xec.event import BoolArray, FloatArray

MARKER: Final = np.float32(1.0e10)
MARKER_THRESHOLD: Final = 9.0e9
OUTPUT_MARKER: Final = -999.0

FloatingArray = NDArray[np.floating[Any]]


def is_reading(raw: FloatingArray) -> BoolArray:
    """Where `raw`, in the units of the file, is a number and not a marker.

    Positive infinity counts as a marker, as it passes the test for 1e10.
    """
    # A signalling NaN in a damaged file raises the invalid flag, and must not become a warning.
    with np.errstate(invalid="ignore"):
        marker: BoolArray = np.isnan(raw) | (raw > MARKER_THRESHOLD) | (raw == OUTPUT_MARKER)
    return ~marker


def split_markers(
    raw: FloatingArray, factor: float, where: str, first_entry: int
) -> tuple[FloatArray, BoolArray]:
    """Values in our units, 0 where invalid, and their validity.

    The conversion is done in double precision and rounded once. A value that is too large for a
    reading after it is a marker too: some programs convert their markers like readings.

    Args:
        raw: (B, ...) as stored in the file.
        factor: our unit per unit of the file.
        where: file and branch, for the error.
        first_entry: entry number of row 0, for the error.

    Raises:
        FileError: for negative infinity or what is nearly as far down: neither reading nor marker.
    """
    valid = is_reading(raw)
    readings = np.where(valid, raw, raw.dtype.type(0))
    with np.errstate(over="ignore"):
        values = (readings.astype(np.float64) * factor).astype(np.float32)
    valid &= values <= LARGEST_READING
    values = np.where(valid, values, np.float32(0))
    damaged = values < -LARGEST_READING
    if damaged.any():
        place = np.argwhere(damaged)[0]
        raise FileError(
            f"{where} holds {raw[tuple(place)]:g} at entry {first_entry + int(place[0])}, which is "
            "neither a reading nor a marker: the file is damaged, write it anew."
        )
    return values, valid


def with_markers(values: FloatArray, valid: BoolArray, factor: float = 1.0) -> FloatArray:
    """Values in the units of the file, with the marker 1e10 where they are invalid."""
    scaled = (values.astype(np.float64) * factor).astype(np.float32)
    return np.where(valid, scaled, MARKER)
