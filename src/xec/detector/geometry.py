"""Where the sensors are and where they look: the parametric detector.

The angle alpha of a place is measured from the -x axis: x = -R cos(alpha), y = R sin(alpha).
Every formula is written around the middle of its grid, so that the mirror symmetries z -> -z
and y -> -y hold to the last bit.

Source: FACTS 1; reproduces the experiment's table of ideal positions to 0.001 cm.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from xec.detector.channels import (
    BOTTOM_IDS,
    DS_GRID,
    HEXAGONAL_ROWS,
    INNER_GRID,
    N_CHANNELS,
    OUTER_COARSE_GRID,
    OUTER_PATCH_GRID,
    TOP_IDS,
    US_GRID,
)
from xec.detector.coordinates import REFF
from xec.detector.survey import read_survey

Floats = NDArray[np.float64]

# Lengths in cm, angles in degrees (FACTS 1).
INNER_ROW_STEP: Final = 125.52 / 93
INNER_Z_PITCH: Final = 1.5097721
OUTER_RADIUS: Final = 106.27
STRIP_STEP: Final = 5.23
OUTER_Z_PITCH: Final = 10.356
PATCH_ANGLES: Final = (8.717, 5.23, 1.743, -1.743, -5.23, -8.717)
PATCH_Z_PITCH: Final = 6.2
SIDE_RADIUS: Final = 69.53
SIDE_RADIUS_STEP: Final = 6.684
SIDE_Z: Final = 35.1547
SIDE_Z_STEP: Final = 2.3369
HEXAGONAL_ANGLE: Final = 62.76
HEXAGONAL_FIRST_ROW: Final = 68.27
HEXAGONAL_ROW_STEP: Final = 6.91
HEXAGONAL_Z_PITCH: Final = 6.12

HASH_STEPS: Final = 1e6
"""Steps per cm (and per unit of the normals) to which geometries are compared."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Positions and normals of all sensors; its hash is part of a model's identity.

    Args:
        position: (4760, 3) cm.
        normal: (4760, 3) unit vectors into the xenon.
    """

    position: Floats
    normal: Floats

    @property
    def hash(self) -> str:
        """SHA-256 of positions and normals as whole multiples of 1e-6, little-endian int64.

        Integers have no negative zero and no last bit that depends on a platform.
        """
        values = np.concatenate([self.position, self.normal], axis=1)
        return hashlib.sha256(np.rint(values * HASH_STEPS).astype("<i8").tobytes()).hexdigest()


def load_survey(path: Path) -> Geometry:
    """The geometry of a surveyed table (see `xec.detector.survey`).

    Raises:
        FileError: a file that is missing, no such table, or one that misses or repeats sensors.
    """
    return Geometry(*read_survey(path))


@cache
def parametric() -> Geometry:
    """The ideal detector; shared by all callers, who must not write into it."""
    position, normal = np.empty((2, N_CHANNELS, 3))
    for place in (_place_inner, _place_outer, _place_sides, _place_hexagons):
        place(position, normal)
    return Geometry(position, normal)


@cache
def mirror_z() -> NDArray[np.int64]:
    """Permutation (4760,) of the sensors under z -> -z: position[p] is the reflected position."""
    return _mirror(2)


@cache
def mirror_y() -> NDArray[np.int64]:
    """Permutation (4760,) of the sensors under y -> -y."""
    return _mirror(1)


def _mirror(axis: int) -> NDArray[np.int64]:
    position = parametric().position
    reflected = position.copy()
    reflected[:, axis] *= -1
    _, image = cKDTree(position).query(reflected)
    image.flags.writeable = False
    return np.asarray(image, dtype=np.int64)


def _radial(alpha: ArrayLike) -> Floats:
    """Unit vectors (..., 3) away from the z axis at angles alpha in degrees."""
    angle = np.radians(np.asarray(alpha, dtype=np.float64))
    return np.stack([-np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)


def _around(count: int, step: float) -> Floats:
    """`count` values `step` apart, with their middle at 0."""
    return (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step


def _cylinder(radius: ArrayLike, alpha: ArrayLike, z: ArrayLike) -> Floats:
    """Points (..., 3) of broadcast radius (cm), alpha (degrees) and z (cm)."""
    radius, alpha, z = np.broadcast_arrays(radius, alpha, z)
    point = np.asarray(radius, dtype=np.float64)[..., None] * _radial(alpha)
    point[..., 2] = z
    return point


def _place_inner(position: Floats, normal: Floats) -> None:
    rows, columns = INNER_GRID.shape
    alpha = -_around(rows, INNER_ROW_STEP)[:, None]
    position[INNER_GRID] = _cylinder(REFF, alpha, _around(columns, INNER_Z_PITCH))
    normal[INNER_GRID] = _radial(alpha)


def _place_outer(position: Floats, normal: Floats) -> None:
    strips, columns = OUTER_COARSE_GRID.shape
    alpha = -_around(strips, STRIP_STEP)[:, None]
    position[OUTER_COARSE_GRID] = _cylinder(OUTER_RADIUS, alpha, _around(columns, OUTER_Z_PITCH))
    normal[OUTER_COARSE_GRID] = -_radial(alpha)
    # The patch comes second: twelve of the coarse PMTs stand in its rows instead.
    alpha = np.array(PATCH_ANGLES)[:, None]
    position[OUTER_PATCH_GRID] = _cylinder(OUTER_RADIUS, alpha, _around(5, PATCH_Z_PITCH))
    normal[OUTER_PATCH_GRID] = -_radial(alpha)


def _place_sides(position: Floats, normal: Floats) -> None:
    """Cones: z grows with the radius, and the normal is perpendicular to that slope."""
    rows, columns = US_GRID.shape
    alpha = -_around(rows, STRIP_STEP)[:, None]
    radius = SIDE_RADIUS + SIDE_RADIUS_STEP * np.arange(columns)
    z = SIDE_Z + SIDE_Z_STEP * np.arange(columns)
    slope = np.hypot(SIDE_RADIUS_STEP, SIDE_Z_STEP)
    for grid, side in ((US_GRID, -1.0), (DS_GRID, 1.0)):
        position[grid] = _cylinder(radius, alpha, side * z)
        normal[grid] = _cylinder(SIDE_Z_STEP / slope, alpha, -side * SIDE_RADIUS_STEP / slope)


def _place_hexagons(position: Floats, normal: Floats) -> None:
    """Planes through the z axis, row by row outwards; they look along decreasing |alpha|."""
    angle = np.radians(HEXAGONAL_ANGLE)
    for ids, side in ((TOP_IDS, 1.0), (BOTTOM_IDS, -1.0)):
        first = 0
        for row, length in enumerate(HEXAGONAL_ROWS):
            radius = HEXAGONAL_FIRST_ROW + HEXAGONAL_ROW_STEP * row
            z = _around(length, HEXAGONAL_Z_PITCH)
            position[ids[first : first + length]] = _cylinder(radius, side * HEXAGONAL_ANGLE, z)
            first += length
        normal[ids] = [-np.sin(angle), -side * np.cos(angle), 0.0]
