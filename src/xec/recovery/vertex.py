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

from xec.detector.channels import N_MPPC
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
    light = np.where(valid[:, inner], npho[:, inner], 0.0).clip(min=0.0).astype(np.float64)
    u, v, _ = uvw_from_xyz(geometry.position[inner]).T
    square = light * light
    second, third = square.sum(axis=1), (square * light).sum(axis=1)
    second[second == 0] = np.nan
    # Row by row: a matrix product's last bits would depend on the other events.
    centre = [(square * place).sum(axis=1) / second for place in (u, v)]
    depth = np.sqrt(32 * CELL_AREA / (49 * np.pi) * second) * second / third
    return np.asarray(xyz_from_uvw(np.stack([*centre, depth], axis=1)), dtype=np.float64)
