"""Which sensors are neighbours, from their positions.

Rules by row parity fail on the top and bottom faces, whose rows keep growing (FACTS 1); a
radius does not. An edge (source, target) stands for both of its directions.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from xec.detector.channels import FACE_IDS, Face
from xec.detector.geometry import Geometry

Floats = NDArray[np.float64]
Edges = NDArray[np.int64]

HEXAGONAL_RADIUS: Final = 8.5
"""cm; between the first neighbours of the hexagonal faces (7.56) and the next shell (11.49)."""

_HEXAGONAL = (Face.TOP, Face.BOTTOM)
_SIDES = (Face.US, Face.DS)


def edges_within(position: Floats, radius: float) -> Edges:
    """Pairs of points at most `radius` apart, both directions, no point with itself.

    Args:
        position: (n, 3) cm.
        radius: cm.

    Returns:
        (2, E) sources and targets, sorted by source, then target.
    """
    pairs = cKDTree(position).query_pairs(radius, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int64)
    return np.ascontiguousarray(both[np.lexsort((both[:, 1], both[:, 0]))].T)


def face_edges(geometry: Geometry, face: Face, radius: float) -> Edges:
    """`edges_within` on one face, (2, E), as indices into that face's list of ids."""
    return edges_within(geometry.position[FACE_IDS[face]], radius)


def edge_offsets(geometry: Geometry, face: Face, edges: Edges) -> Floats:
    """How target lies from source on the face: (along z, across, distance), (E, 3) cm.

    "Across" is the other direction in the face: the arc along v on the inner, outer, us and ds
    faces (at the pair's mean radius), the radial direction on the planes of top and bottom.
    On the us and ds cones "along z" is measured on the slope, positive outwards. Swapping source
    and target changes the sign of the first two and not the distance (a chord).

    Args:
        geometry: positions of the sensors.
        face: which the edges belong to.
        edges: (2, E) as from `face_edges`.
    """
    position = geometry.position[FACE_IDS[face]]
    x, y, z = position.T
    source, target = edges
    radius = np.hypot(x, y)
    outwards = radius[target] - radius[source]
    along = z[target] - z[source]
    if face in _HEXAGONAL:
        across = outwards
    else:
        alpha = np.arctan2(y, -x)
        across = (alpha[target] - alpha[source]) * (radius[target] + radius[source]) / 2
    if face in _SIDES:
        along = np.copysign(np.hypot(outwards, along), outwards)
    distance = np.linalg.norm(position[target] - position[source], axis=1)
    return np.stack([along, across, distance], axis=1)
