"""A dead sensor reads its neighbours' light in proportion to the solid angles.

Source: FACTS 4, conventional recovery, method 2.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.geometry import Geometry
from xec.detector.solid_angle import fractions
from xec.recovery.neighbour_average import average_of, neighbour_sums

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

MIN_NEIGHBOUR_LIGHT: Final = 50.0
"""Photons on all live neighbours together; with fewer, their average serves (FACTS 4)."""

MIN_NEIGHBOUR_FRACTION: Final = 1e-9
"""Of the sphere, all live neighbours together; less is the rounding error of their sum."""


def solid_angle_ratio(
    npho: Floats, valid: BoolArray, vertex: Floats, geometry: Geometry
) -> NDArray[np.float64]:
    """Count expected from the live neighbours: sum(npho) Omega / sum(Omega of the neighbours).

    A ratio of sums, as a mean of ratios would give a dim neighbour's noise the weight of a
    bright one. Neighbours as in `neighbour_average`, whose answer stands where the neighbours
    hold no more than 50 photons, see nothing of the vertex, or the vertex is unknown (NaN).
    A sensor that looks away from the vertex is given 0, though scattered light does reach it.

    Args:
        npho: (B, 4760) photons; what stands where `valid` is False is not read.
        valid: (B, 4760).
        vertex: (B, 3) cm, where the light comes from: `conventional_vertex` or the truth.
        geometry: positions and normals of the sensors.

    Returns:
        (B, 4760) photons, for live and dead sensors alike; NaN where no neighbour is live.
    """
    sums = neighbour_sums(geometry)
    light = sums(np.where(valid, npho, 0.0))
    average = average_of(light, sums(valid.astype(np.float64)))
    own = fractions(geometry, vertex)
    seen = sums(np.where(valid, own, 0.0))
    usable = (light > MIN_NEIGHBOUR_LIGHT) & (seen > MIN_NEIGHBOUR_FRACTION)
    return np.divide(light * own, seen, out=average, where=usable)
