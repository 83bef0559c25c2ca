"""How noisy readings are, from the readings alone.

Light varies smoothly from sensor to sensor, noise does not. The second difference in both
directions of a grid,

     1 -2  1
    -2  4 -2
     1 -2  1

is 0 for light that is any polynomial up to x + y + xy + x^2 + y^2 + x^2 y + x y^2, and has the
variance of the noise weighted with the squares, 36 in sum. Photon counting has a variance of
`k` times the light, so that k = sum(r^2) / sum(w^2 N) over all stencils. k is 1 / efficiency or,
with the excess noise of the sensor's gain, more.

Source: J. Immerkaer, Comput. Vis. Image Underst. 64, 300 (1996), for the stencil.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import DS_GRID, INNER_GRID, IS_MPPC, US_GRID

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

_STENCIL: Final = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])

DIMMEST: Final = 20.0
"""Photons, mean of a stencil; below, the pedestal's noise counts as well."""

BRIGHTEST: Final = 200.0
"""Photons; above, one is so near to the shower that the light is no longer smooth."""


class CountingNoise:
    """Variance of a reading per photon of light, for MPPCs and PMTs, of any number of events.

    The inner face serves for the MPPCs, the upstream and downstream faces for the PMTs.
    """

    def __init__(self) -> None:
        self._square = {True: 0.0, False: 0.0}
        self._weighted = {True: 0.0, False: 0.0}

    def add(self, npho: Floats, valid: BoolArray) -> None:
        """Look at the readings of B events.

        Args:
            npho: (B, 4760) photons.
            valid: (B, 4760); a stencil with an invalid reading is left out.
        """
        for grid in (INNER_GRID, US_GRID, DS_GRID):
            mppc = bool(IS_MPPC[grid[0, 0]])
            square, weighted = _stencils(npho[:, grid], valid[:, grid])
            self._square[mppc] += square
            self._weighted[mppc] += weighted

    def per_photon(self, mppc: bool) -> float:
        """Variance per photon, in photons; NaN where no stencil was fit for it."""
        weighted = self._weighted[mppc]
        return self._square[mppc] / weighted if weighted > 0 else math.nan


def _shifted(values: NDArray[Any], row: int, column: int) -> NDArray[Any]:
    _, rows, columns = values.shape
    return values[:, row : rows - 2 + row, column : columns - 2 + column]


def _stencils(npho: Floats, valid: BoolArray) -> tuple[float, float]:
    """Sums of r^2 and of w^2 N over the stencils of grids (B, rows, columns)."""
    offsets = [(row, column) for row in range(3) for column in range(3)]
    usable = np.logical_and.reduce([_shifted(valid, *at) for at in offsets])
    light = np.where(valid, npho, 0.0).astype(np.float64)
    parts = [(_STENCIL[at], _shifted(light, *at)) for at in offsets]
    mean = sum(part for _, part in parts) / len(parts)
    usable &= (mean > DIMMEST) & (mean < BRIGHTEST)
    residual = sum(weight * part for weight, part in parts)[usable]
    weighted = sum(weight * weight * part for weight, part in parts)[usable]
    return float(residual @ residual), float(weighted.sum())
