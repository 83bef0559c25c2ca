"""Channel ids: which sensor is on which face and where in that face's grid.

Source: FACTS 1 (ids, grids); the outer face's fine grid after its transposition.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

N_CHANNELS: Final = 4760
N_MPPC: Final = 4092


class Face(StrEnum):
    """The six faces, by name; integer codes differ between programs and are never used."""

    INNER = "inner"
    OUTER = "outer"
    US = "us"
    DS = "ds"
    TOP = "top"
    BOTTOM = "bottom"


def _ids(first: int, *shape: int) -> NDArray[np.int64]:
    count = int(np.prod(shape))
    grid = np.arange(first, first + count, dtype=np.int64).reshape(shape)
    grid.flags.writeable = False
    return grid


INNER_GRID: Final = _ids(0, 93, 44)  # rows along v (azimuth), columns along u (z)
OUTER_COARSE_GRID: Final = _ids(4092, 24, 9)  # azimuthal strips, z
US_GRID: Final = _ids(4308, 24, 6)  # azimuth, radius
DS_GRID: Final = _ids(4452, 24, 6)
TOP_IDS: Final = _ids(4596, 73)
BOTTOM_IDS: Final = _ids(4669, 73)
OUTER_EXTRA_IDS: Final = _ids(4742, 18)

HEXAGONAL_ROWS: Final = (11, 12, 11, 12, 13, 14)  # sensors per row of the top and bottom faces

OUTER_SHARED_IDS: Final = OUTER_COARSE_GRID[10:14, 3:6]  # coarse PMTs inside the centre patch

# The centre patch in the order of its rows: six azimuths, five places in z.
OUTER_PATCH_GRID: Final = np.array(
    [
        [4185, 4742, 4186, 4743, 4187],
        [4744, 4745, 4746, 4747, 4748],
        [4194, 4749, 4195, 4750, 4196],
        [4203, 4751, 4204, 4752, 4205],
        [4753, 4754, 4755, 4756, 4757],
        [4212, 4758, 4213, 4759, 4214],
    ],
    dtype=np.int64,
)
OUTER_PATCH_GRID.flags.writeable = False

FACE_IDS: Final[dict[Face, NDArray[np.int64]]] = {
    Face.INNER: INNER_GRID.ravel(),
    Face.OUTER: np.concatenate([OUTER_COARSE_GRID.ravel(), OUTER_EXTRA_IDS]),
    Face.US: US_GRID.ravel(),
    Face.DS: DS_GRID.ravel(),
    Face.TOP: TOP_IDS,
    Face.BOTTOM: BOTTOM_IDS,
}

IS_MPPC: Final[NDArray[np.bool_]] = np.arange(N_CHANNELS) < N_MPPC


def face_of_channel() -> NDArray[np.str_]:
    """Face name of each channel, shape (4760,)."""
    names = np.empty(N_CHANNELS, dtype="<U6")
    for face, ids in FACE_IDS.items():
        names[ids] = face.value
    return names


def outer_fine_grid() -> NDArray[np.int64]:
    """Channel id at each cell of the outer face's fine grid, (45 in z, 72 in azimuth).

    A coarse PMT covers 5x3 cells, a PMT of the centre patch 3x2; the patch lies over exactly
    the twelve shared PMTs, rows 15-30 and columns 30-42.
    """
    fine = np.kron(OUTER_COARSE_GRID.T, np.ones((5, 3), dtype=np.int64))
    fine[15:30, 30:42] = np.kron(OUTER_PATCH_GRID.T, np.ones((3, 2), dtype=np.int64))
    return fine
