"""The detector's own coordinates u, v, w and the angles of the gamma's flight.

The inner face is a cylinder of radius REFF about the z axis, seen from -x: u runs along z, v
along the azimuth on that cylinder, w is the depth behind it. All functions work over leading
axes and keep float32 as float32.

Source: FACTS 2 ("global" coordinates, as simulation and training use them).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

REFF: Final = 64.97
"""Radius of the inner face, cm."""

FIDUCIAL_U: Final = 23.9
FIDUCIAL_V: Final = 67.9
FIDUCIAL_W: Final = 42.0

Floats = NDArray[np.floating[Any]]


def _components(vector: ArrayLike) -> tuple[Floats, ...]:
    array = np.asarray(vector)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    return tuple(array[..., k] for k in range(array.shape[-1]))


def uvw_from_xyz(xyz: ArrayLike) -> Floats:
    """u, v, w (..., 3) in cm of points x, y, z (..., 3) in cm.

    Since -(phi - pi) = atan2(y, -x), v needs no subtraction and keeps its precision at v = 0.
    """
    x, y, z = _components(xyz)
    return np.stack([z, np.arctan2(y, -x) * REFF, np.hypot(x, y) - REFF], axis=-1)


def xyz_from_uvw(uvw: ArrayLike) -> Floats:
    """x, y, z (..., 3) in cm of points u, v, w (..., 3) in cm."""
    u, v, w = _components(uvw)
    radius, angle = w + REFF, v / REFF
    return np.stack([-radius * np.cos(angle), radius * np.sin(angle), u], axis=-1)


def direction_from_angles(angle: ArrayLike) -> Floats:
    """Unit vectors (..., 3) of flight for angles theta, phi (..., 2) in degrees."""
    theta, phi = (np.radians(component) for component in _components(angle))
    transverse = np.sin(theta)
    return np.stack([-transverse * np.cos(phi), transverse * np.sin(phi), np.cos(theta)], axis=-1)


def angles_from_direction(direction: ArrayLike) -> Floats:
    """Angles theta in [0, 180] and phi in (-180, 180] (..., 2) in degrees of vectors (..., 3).

    The vectors need not be normalised. A vector along z has phi = 0 or 180.
    """
    x, y, z = _components(direction)
    angle = np.stack([np.arctan2(np.hypot(x, y), z), np.arctan2(y, -x)], axis=-1)
    return np.asarray(np.degrees(angle))


def inside_fiducial(uvw: ArrayLike) -> NDArray[np.bool_]:
    """Whether points u, v, w (..., 3) lie in the fiducial volume; NaN lies outside.

    |u| < 23.9 cm, |v| < 67.9 cm, 0 <= w < 42 cm (FACTS 2).
    """
    u, v, w = _components(uvw)
    inside = (np.abs(u) < FIDUCIAL_U) & (np.abs(v) < FIDUCIAL_V) & (w >= 0) & (w < FIDUCIAL_W)
    return np.asarray(inside)
