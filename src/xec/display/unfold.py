"""The detector unfolded into a plane: where each sensor is drawn.

        top
    ds inner us outer
       bottom

Seen from inside and opened along its edges, so that faces which touch in reality touch in the
picture, apart from a narrow gap: a shower that runs from the inner face into another one goes on
at the same height or, on the top and bottom faces, at the same z. Vertically, v is the azimuth as
a length on the inner face. Horizontally, z falls from left to right on inner, top and bottom (ds
is at z > 0) and rises on outer, which hangs on the far edge of us; on us and ds the distance from
the inner face runs outwards, measured along the slanted face.

All lengths in cm. Positions are those of the ideal geometry, also for pictures of events that
were measured with a surveyed one: the survey moves a sensor by less than its own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from xec.detector.channels import (
    DS_GRID,
    FACE_IDS,
    INNER_GRID,
    N_CHANNELS,
    OUTER_COARSE_GRID,
    US_GRID,
    Face,
    outer_fine_grid,
)
from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import parametric

Points = NDArray[np.float64]

GAP: Final = 2.0
DISC_RADIUS: Final = 3.06  # half the distance of neighbours in a row, so that discs touch
_DISC_CORNERS: Final = 24


@dataclass(frozen=True, slots=True, eq=False)
class Unfolded:
    """The plane picture of the detector.

    `polygons` are the corners of each channel, (n, 2); `centres` their middles, (4760, 2);
    `outlines` the corners of each face.
    """

    polygons: tuple[Points, ...]
    centres: Points
    outlines: Mapping[Face, Points]

    def extent(self, face: Face) -> tuple[float, float, float, float]:
        """Left, right, bottom and top end of a face."""
        low, high = self.outlines[face].min(axis=0), self.outlines[face].max(axis=0)
        return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def inner_point(u: float, v: float) -> tuple[float, float]:
    """Where a point of the inner face with the coordinates `u` and `v` is drawn."""
    return -u, v


@dataclass(frozen=True, slots=True, eq=False)
class _Patches:
    """Some channels (n,), their middles (n, 2) and corners (n, corners, 2)."""

    ids: NDArray[np.int64]
    centres: Points
    corners: Points


def _rectangles(
    ids: NDArray[np.int64], x: Points, y: Points, size: tuple[float, float]
) -> _Patches:
    """Equal rectangles around `x` and `y`, each of the shape of `ids`."""
    centres = np.stack([x, y], axis=-1).reshape(-1, 2)
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array(size) / 2
    return _Patches(ids.ravel(), centres, centres[:, None] + half)


def _discs(ids: NDArray[np.int64], x: Points, y: Points) -> _Patches:
    centres = np.stack([x, y], axis=-1)
    angle = np.arange(_DISC_CORNERS) * (2 * np.pi / _DISC_CORNERS)
    circle = DISC_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return _Patches(ids, centres, centres[:, None] + circle)


def _inner(uvw: Points) -> _Patches:
    u, v, _ = np.moveaxis(uvw[INNER_GRID], -1, 0)
    size = float(u[0, 1] - u[0, 0]), float(v[0, 0] - v[1, 0])
    return _rectangles(INNER_GRID, -u, v, size)


def _side(uvw: Points, grid: NDArray[np.int64], inner_edge: float) -> _Patches:
    """Face us or ds, attached where the inner face ends: at x = `inner_edge`, left or right."""
    u, v, w = np.moveaxis(uvw[grid], -1, 0)
    along = np.hypot(w - w[:, :1], u - u[:, :1])
    width, height = float(along[0, 1]), float(v[0, 0] - v[1, 0])
    x = inner_edge + np.sign(inner_edge) * (GAP + width / 2 + along)
    return _rectangles(grid, x, v, (width, height))


def _outer(uvw: Points, us_edge: float) -> _Patches:
    """The fine grid's cells, put together to sensors."""
    u, v, _ = np.moveaxis(uvw[OUTER_COARSE_GRID], -1, 0)
    width, height = float(u[0, 1] - u[0, 0]) / 5, float(v[0, 0] - v[1, 0]) / 3
    fine = outer_fine_grid()
    top = float(v[0, 0]) + 1.5 * height
    corners = np.empty((len(FACE_IDS[Face.OUTER]), 4, 2))
    for k, channel in enumerate(FACE_IDS[Face.OUTER]):
        rows, columns = np.nonzero(fine == channel)
        left, right = us_edge + GAP + width * np.array([rows.min(), rows.max() + 1])
        upper, lower = top - height * np.array([columns.min(), columns.max() + 1])
        corners[k] = [[left, lower], [right, lower], [right, upper], [left, upper]]
    return _Patches(FACE_IDS[Face.OUTER], corners.mean(axis=1), corners)


def _end(uvw: Points, face: Face, inner_edge: float) -> _Patches:
    """Face top or bottom, attached where the inner face ends: at y = `inner_edge`, up or down."""
    ids = FACE_IDS[face]
    u, _, w = np.moveaxis(uvw[ids], -1, 0)
    y = inner_edge + np.sign(inner_edge) * (GAP + DISC_RADIUS + w - w.min())
    return _discs(ids, -u, y)


def _hull(patches: _Patches) -> Points:
    points = patches.corners.reshape(-1, 2)
    return points[ConvexHull(points).vertices]


@cache
def unfolded() -> Unfolded:
    """The picture of the ideal geometry."""
    uvw = uvw_from_xyz(parametric().position).astype(np.float64)
    inner = _inner(uvw)
    right, upper = inner.corners.max(axis=(0, 1))
    us = _side(uvw, US_GRID, right)
    faces = {
        Face.INNER: inner,
        Face.US: us,
        Face.DS: _side(uvw, DS_GRID, -right),
        Face.OUTER: _outer(uvw, float(us.corners[..., 0].max())),
        Face.TOP: _end(uvw, Face.TOP, upper),
        Face.BOTTOM: _end(uvw, Face.BOTTOM, -upper),
    }
    polygons: dict[int, Points] = {}
    centres = np.empty((N_CHANNELS, 2))
    for patches in faces.values():
        polygons.update(zip(patches.ids.tolist(), patches.corners, strict=True))
        centres[patches.ids] = patches.centres
    return Unfolded(
        tuple(polygons[channel] for channel in range(N_CHANNELS)),
        centres,
        {face: _hull(patches) for face, patches in faces.items()},
    )
