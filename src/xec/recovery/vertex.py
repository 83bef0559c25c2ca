"""Where the light comes from, from sums over the inner face: the conventional estimate.

A point source at depth w lights an infinite plane with E ~ w / (w^2 + rho^2)^(3/2). Its moments
M_k = integral of E^k dA are M_2 ~ pi / (2 w^2) and M_3 ~ 2 pi / (7 w^4), so that

    w^2 = 32 / (49 pi) * M_2^3 / M_3^2 * (area per sensor)

whatever the brightness. M_1, the plain sum, would depend on where the face ends; the square
and the cube of the light do not reach so far. The centre is weighted with the square, too.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import INNER_GRID, N_MPPC
from xec.detector.coordinates import REFF, uvw_from_xyz, xyz_from_uvw
from xec.detector.geometry import INNER_ROW_STEP, INNER_Z_PITCH, Geometry

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

CELL_AREA: Final = INNER_Z_PITCH * float(np.radians(INNER_ROW_STEP)) * REFF
"""cm^2 of the inner face per sensor."""


def conventional_vertex(npho: Floats, valid: BoolArray, geometry: Geometry) -> NDArray[np.float64]:
    """Centre of the light (B, 3) in cm, x, y, z, from the inner face.

    Light from a shower comes from behind the conversion point: the depth is that of the light.

    Args:
        npho: (B, 4760) photons; what stands where `valid` is False is not read, and negative
            counts carry no light.
        valid: (B, 4760).
        geometry: positions of the sensors.

    Returns:
        (B, 3); NaN where no live inner sensor has light.
    """
    inner = slice(0, N_MPPC)
    light = np.where(valid[:, inner], npho[:, inner], 0.0).clip(min=0.0)
    uv = uvw_from_xyz(geometry.position[inner])[:, :2]
    square = light * light
    second, third = square.sum(axis=1), (square * light).sum(axis=1)
    lit = second > 0
    safe = np.where(lit, second, np.nan)
    depth = np.sqrt(32 * CELL_AREA / (49 * np.pi) * safe) * safe / third
    centre = square @ uv / safe[:, None]
    return np.asarray(xyz_from_uvw(np.column_stack([centre, depth])), dtype=np.float64)
