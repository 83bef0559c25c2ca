"""A dead sensor reads what its neighbours read on average: the simplest conventional method.

Source: FACTS 4, conventional recovery, method 1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from xec.detector.adjacency import face_edges
from xec.detector.channels import FACE_IDS, N_CHANNELS
from xec.detector.geometry import Geometry

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

NEIGHBOUR_RADIUS: Final = 20.0
"""cm; sensors of the same face within this distance are neighbours (FACTS 4)."""


class NeighbourSums:
    """Sums over each sensor's neighbours, for many events at once.

    An inner sensor has some 500 neighbours, but they are few unbroken runs of ids (one per row
    of the face). The sum over a run is a difference of two prefix sums, so that a matrix with
    two entries per run does the work of the adjacency matrix.

    Args:
        geometry: positions of the sensors.
        radius: of the neighbourhood, cm.
    """

    def __init__(self, geometry: Geometry, radius: float) -> None:
        per_face = [ids[face_edges(geometry, face, radius)] for face, ids in FACE_IDS.items()]
        self._operator = _run_differences(*np.concatenate(per_face, axis=1))

    def __call__(self, values: Floats) -> NDArray[np.float64]:
        """Sum over the neighbours of every sensor, itself left out; (B, 4760) to (B, 4760)."""
        prefix = np.zeros((N_CHANNELS + 1, len(values)))
        np.cumsum(values.T, axis=0, out=prefix[1:])
        return np.asarray((self._operator @ prefix).T)


def _run_differences(source: NDArray[np.int64], target: NDArray[np.int64]) -> csr_array:
    """Matrix (N, N + 1) from prefix sums to sums over each source's targets."""
    order = np.lexsort((target, source))
    source, target = source[order], target[order]
    joined = (np.diff(source) == 0) & (np.diff(target) == 1)
    first = np.concatenate([[True], ~joined])
    last = np.concatenate([~joined, [True]])
    rows = np.concatenate([source[last], source[first]])
    columns = np.concatenate([target[last] + 1, target[first]])
    signs = np.repeat([1.0, -1.0], [last.sum(), first.sum()])
    return csr_array((signs, (rows, columns)), shape=(N_CHANNELS, N_CHANNELS + 1))


@lru_cache(maxsize=4)
def neighbour_sums(geometry: Geometry) -> NeighbourSums:
    """The sums over `NEIGHBOUR_RADIUS`, built once per geometry."""
    return NeighbourSums(geometry, NEIGHBOUR_RADIUS)


def neighbour_average(npho: Floats, valid: BoolArray, geometry: Geometry) -> NDArray[np.float64]:
    """Mean count of each sensor's live neighbours: on the same face, within 20 cm, not itself.

    Args:
        npho: (B, 4760) photons; what stands where `valid` is False is not read.
        valid: (B, 4760).
        geometry: positions of the sensors.

    Returns:
        (B, 4760) photons, for live and dead sensors alike; NaN where no neighbour is live.
    """
    sums = neighbour_sums(geometry)
    return average_of(sums(np.where(valid, npho, 0.0)), sums(valid.astype(np.float64)))


def average_of(light: NDArray[np.float64], live: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient of the two sums, NaN where no neighbour is live."""
    return np.divide(light, live, out=np.full_like(light, np.nan), where=live > 0)
