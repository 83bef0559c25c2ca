"""Colours of counts and differences; all safe for colour-blind readers.

Counts go from black over red to yellow (inferno, perceptually uniform). What is dead or recovered
is cyan, which is in no part of that map and differs from it in lightness as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, LogNorm, Normalize, SymLogNorm
from numpy.typing import ArrayLike, NDArray

NPHO_FLOOR: Final = 3.0
"""Photons; about the noise of an empty sensor. Counts below, also negative ones, look like it."""

DIFFERENCE_LINEAR: Final = 10.0
"""Photons; differences up to this size are coloured linearly, larger ones by their logarithm."""

DEAD: Final = "#4cc9f0"
LIVE: Final = "#dcdcdc"  # of sensors that a panel is not about
INK: Final = "#222222"
FAINT: Final = "#6b6b6b"

_SHADES: Final = 256


@dataclass(frozen=True, slots=True)
class Backdrop:
    """What lies behind the sensors: colour of a face between its discs, and of text on it."""

    ground: str
    text: str


DARK: Final = Backdrop(ground="#1a1a22", text="white")
LIGHT: Final = Backdrop(ground="#efefef", text=INK)


def npho_map() -> Colormap:
    """Map of counts."""
    return mpl.colormaps["inferno"].resampled(_SHADES)


def difference_map() -> Colormap:
    """Diverging map of differences: blue too low, red too high."""
    return mpl.colormaps["RdBu_r"].resampled(_SHADES)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, ... photons."""
    power = 10.0 ** np.floor(np.log10(value))
    steps = power * np.array([1.0, 2.0, 5.0, 10.0])
    return float(steps[np.searchsorted(steps, value * (1 - 1e-9))])


def npho_norm(npho: ArrayLike) -> LogNorm:
    """Logarithmic scale from the floor to the largest count, at least two decades."""
    largest = float(np.max(npho, initial=0.0))
    return LogNorm(NPHO_FLOOR, _round_up(max(largest, 100 * NPHO_FLOOR)), clip=True)


def difference_norm(difference: ArrayLike) -> SymLogNorm:
    """Symmetric scale up to the largest difference, linear near 0."""
    largest = float(np.max(np.abs(difference), initial=0.0))
    limit = _round_up(max(largest, 10 * DIFFERENCE_LINEAR))
    return SymLogNorm(DIFFERENCE_LINEAR, vmin=-limit, vmax=limit, clip=True)


def colours_of(
    values: NDArray[np.floating], norm: Normalize, colormap: Colormap
) -> NDArray[np.float64]:
    """RGBA (n, 4) of `values` (n,); what is below a logarithmic scale gets its lowest colour."""
    low = norm.vmin if norm.vmin is not None else -np.inf
    return np.asarray(colormap(norm(np.maximum(values, low))), dtype=np.float64)
