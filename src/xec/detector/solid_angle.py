"""The share of isotropic light from a point that falls on each sensor.

An MPPC is four square chips, a PMT the disc of its photocathode; both see nothing from behind.

Sources: the four-corner expression of a rectangle (FACTS 4); for a disc F. Paxton, Rev. Sci.
Instrum. 30, 254 (1959), with complete elliptic integrals in Carlson's symmetric forms
(B. C. Carlson, Numer. Algorithms 10, 13 (1995); DLMF 19.25); sizes from FACTS 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import elliprf, elliprj

from xec.detector.channels import IS_MPPC, N_CHANNELS
from xec.detector.geometry import Geometry

Floats = NDArray[np.float64]

CHIP: Final = 0.590
CHIP_GAP: Final = 0.05
PMT_RADIUS: Final = 2.25

_CHIP_EDGES: Final = (-CHIP_GAP / 2 - CHIP, -CHIP_GAP / 2, CHIP_GAP / 2, CHIP_GAP / 2 + CHIP)
_CHIP_SIGNS: Final = (-1.0, 1.0, -1.0, 1.0)

_POINTS_AT_ONCE = 8  # a dozen arrays of 8 x 4092 stay in a core's caches


def rectangle(
    x: ArrayLike, y: ArrayLike, height: ArrayLike, width: ArrayLike, length: ArrayLike
) -> Floats:
    """Solid angle (sr) of rectangles, seen from points; all arguments broadcast.

    Args:
        x: of the point, from the centre of the rectangle along its width, cm.
        y: along its length, cm.
        height: of the point above the rectangle's front, cm; not above it the answer is 0.
        width: cm.
        length: cm.
    """
    half_width, half_length = np.asarray(width) / 2, np.asarray(length) / 2
    edges_x = (np.asarray(x) - half_width, np.asarray(x) + half_width)
    edges_y = (np.asarray(y) - half_length, np.asarray(y) + half_length)
    return _from_corners(edges_x, edges_y, (-1.0, 1.0), np.asarray(height, dtype=np.float64))


def mppc(x: ArrayLike, y: ArrayLike, height: ArrayLike) -> Floats:
    """Solid angle (sr) of an MPPC's four chips from points x, y, height (cm, broadcast)."""
    edges_x = tuple(np.asarray(x) + edge for edge in _CHIP_EDGES)
    edges_y = tuple(np.asarray(y) + edge for edge in _CHIP_EDGES)
    return _from_corners(edges_x, edges_y, _CHIP_SIGNS, np.asarray(height, dtype=np.float64))


def _from_corners(
    edges_x: tuple[Floats, ...],
    edges_y: tuple[Floats, ...],
    signs: tuple[float, ...],
    height: Floats,
) -> Floats:
    """Signed sum over the corners of atan(x y / (h r)), r the distance of the corner."""
    front = height > 0
    h = np.where(front, height, 1.0)
    total = np.zeros(np.broadcast_shapes(edges_x[0].shape, edges_y[0].shape, h.shape))
    for a, sign_a in zip(edges_x, signs, strict=True):
        square = a * a + h * h
        for b, sign_b in zip(edges_y, signs, strict=True):
            total += sign_a * sign_b * np.arctan(a * b / (h * np.sqrt(square + b * b)))
    return np.where(front, total, 0.0)


def disc(offset: ArrayLike, height: ArrayLike, radius: ArrayLike = PMT_RADIUS) -> Floats:
    """Solid angle (sr) of discs, seen from points; all arguments broadcast.

    With d the offset, R the radius, M^2 = h^2 + (d + R)^2, m = 4 d R / M^2 and
    n = 4 d R / (d + R)^2 Paxton's result reads

        Omega = 2 pi [d < R] - 2 h / M (K(m) + (R - d) / (R + d) Pi(n, m)),

    with K = R_F(0, 1 - m, 1) and Pi = K + n / 3 R_J(0, 1 - m, 1, 1 - n). At d = R the product
    with Pi vanishes and the bracket counts one half.

    Args:
        offset: distance of the point from the disc's axis, cm.
        height: of the point above the disc's front, cm; not above it the answer is 0.
        radius: cm.
    """
    d, h, R = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (offset, height, radius))
    )
    front = h > 0
    h = np.where(front, h, 1.0)
    far, near = h * h + (d + R) ** 2, h * h + (d - R) ** 2
    ratio = (R - d) / (R + d)
    on_rim = np.abs(ratio) < 1e-12
    complement = near / far  # 1 - m, without its cancellation
    first = elliprf(0.0, complement, 1.0)
    product = elliprj(0.0, complement, 1.0, np.where(on_rim, 1.0, ratio * ratio))
    third = first + (1 - ratio * ratio) / 3 * product
    rest = np.where(on_rim, first, first + ratio * third)
    inside = np.where(on_rim, 0.5, np.where(d < R, 1.0, 0.0))
    return np.where(front, 2 * np.pi * inside - 2 * h / np.sqrt(far) * rest, 0.0)


def fractions(
    geometry: Geometry, points: ArrayLike, channels: NDArray[np.integer] | None = None
) -> Floats:
    """Solid angle / 4 pi of sensors from points.

    The chips' edges run along z and along the azimuth, each projected on the sensor's plane.

    Args:
        geometry: positions and normals of the sensors.
        points: (P, 3) cm, or one (3,); a point that is NaN (unknown) sees nothing.
        channels: ids (n,) of the sensors wanted; all by default.

    Returns:
        (P, n).
    """
    points = np.atleast_2d(np.asarray(points, dtype=np.float64))
    ids = np.arange(N_CHANNELS) if channels is None else np.asarray(channels)
    omega = np.empty((len(points), len(ids)))
    for kind, formula in ((IS_MPPC, mppc), (~IS_MPPC, _photocathode)):
        chosen = np.flatnonzero(kind[ids])
        frames = _frames(geometry, ids[chosen])
        for first in range(0, len(points), _POINTS_AT_ONCE):
            rows = slice(first, first + _POINTS_AT_ONCE)
            omega[rows, chosen] = formula(*_local(points[rows], frames))
    return omega / (4 * np.pi)


def _photocathode(x: Floats, y: Floats, height: Floats) -> Floats:
    return disc(np.hypot(x, y), height)


@dataclass(frozen=True, slots=True, eq=False)
class _Frames:
    """Centres of n sensors and their axes: in the plane along z and across, and the normal."""

    centre: Floats  # (n, 3) cm
    axes: tuple[Floats, Floats, Floats]  # (n, 3) each


def _frames(geometry: Geometry, ids: NDArray[np.integer]) -> _Frames:
    normal = geometry.normal[ids]
    along = np.array([0.0, 0.0, 1.0]) - normal[:, 2:] * normal
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return _Frames(geometry.position[ids], (along, np.cross(normal, along), normal))


def _local(points: Floats, frames: _Frames) -> tuple[Floats, Floats, Floats]:
    """Coordinates x, y, height (P, n) of points (P, 3) in the frames of n sensors.

    Written out, as a matrix product's last bits would depend on the number of points.
    """
    px, py, pz = points.T[:, :, None]
    x, y, height = (
        px * axis[:, 0] + py * axis[:, 1] + pz * axis[:, 2] - (axis * frames.centre).sum(axis=1)
        for axis in frames.axes
    )
    return x, y, height
