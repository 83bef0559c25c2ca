"""Channel ids: counts, partitions, and the outer face's fine grid held against positions."""

import numpy as np
import pytest

from xec.detector.channels import (
    FACE_IDS,
    HEXAGONAL_ROWS,
    IS_MPPC,
    N_CHANNELS,
    N_MPPC,
    OUTER_COARSE_GRID,
    OUTER_EXTRA_IDS,
    OUTER_PATCH_GRID,
    OUTER_SHARED_IDS,
    Face,
    face_of_channel,
    outer_fine_grid,
)
from xec.detector.geometry import parametric

OUTER = OUTER_COARSE_GRID.ravel()


def grid_distances(grid: np.ndarray, axis: int) -> np.ndarray:
    """Distances between sensors that follow each other along an axis of a grid of ids, cm."""
    steps = np.diff(parametric().position[grid], axis=axis)
    return np.linalg.norm(steps, axis=-1)


def test_faces_partition_the_channels() -> None:
    every = np.concatenate(list(FACE_IDS.values()))
    np.testing.assert_array_equal(np.sort(every), np.arange(N_CHANNELS))
    counts = {face: len(ids) for face, ids in FACE_IDS.items()}
    assert counts == {
        Face.INNER: 4092,
        Face.OUTER: 234,
        Face.US: 144,
        Face.DS: 144,
        Face.TOP: 73,
        Face.BOTTOM: 73,
    }
    assert IS_MPPC.sum() == N_MPPC == 4092
    assert sum(HEXAGONAL_ROWS) == 73


def test_face_names_follow_the_ids() -> None:
    names = face_of_channel()
    assert [names[i] for i in (0, 4091, 4092, 4307, 4308, 4452, 4596, 4669, 4741)] == [
        *("inner", "inner", "outer", "outer", "us", "ds", "top", "bottom", "bottom")
    ]
    assert set(names[OUTER_EXTRA_IDS]) == {"outer"}


def test_centre_patch_is_twelve_shared_and_eighteen_extra() -> None:
    shared = {4185, 4186, 4187, 4194, 4195, 4196, 4203, 4204, 4205, 4212, 4213, 4214}
    assert set(OUTER_SHARED_IDS.ravel()) == shared
    patch = set(OUTER_PATCH_GRID.ravel())
    assert len(patch) == 30
    assert patch == shared | set(range(4742, 4760))


def test_outer_neighbours_are_close_only_in_the_right_reading() -> None:
    right = OUTER.reshape(24, 9)
    assert grid_distances(right, 1).min() == pytest.approx(8.47, abs=0.01)
    assert grid_distances(right, 1).max() == pytest.approx(12.4)
    # The two middle strips of the centre patch are closer together than all others.
    assert grid_distances(right, 0).min() == pytest.approx(6.46, abs=0.01)
    assert grid_distances(right, 0).max() == pytest.approx(12.93, abs=0.01)
    wrong = OUTER.reshape(9, 24)
    assert grid_distances(wrong, 0).min() > 39.9
    assert grid_distances(wrong, 1).max() == pytest.approx(83.4, abs=0.1)


def fine_grid_misplacement(fine: np.ndarray) -> tuple[float, float]:
    """Largest distance of a cell from its sensor, along z and the azimuth.

    In units of the distance between a sensor's centre and its own outermost cell's centre.
    """
    position = parametric().position
    rows, columns = np.indices(fine.shape)
    z = (rows - 22) * 10.356 / 5
    alpha = -(columns - 35.5) * 5.23 / 3
    is_patch = np.isin(fine, OUTER_PATCH_GRID)
    off_z = np.abs(position[fine, 2] - z) / np.where(is_patch, 10.356 / 5, 2 * 10.356 / 5)
    sensor_alpha = np.degrees(np.arctan2(position[fine, 1], -position[fine, 0]))
    off_alpha = np.abs(sensor_alpha - alpha) / (5.23 / 3)
    return float(off_z.max()), float(off_alpha.max())


def test_fine_grid_lies_where_its_sensors_are() -> None:
    fine = outer_fine_grid()
    assert fine.shape == (45, 72)
    off_z, off_alpha = fine_grid_misplacement(fine)
    assert off_z <= 1.02
    assert off_alpha <= 1.02


@pytest.mark.parametrize("flip", [np.s_[::-1, :], np.s_[:, ::-1]])
def test_a_flipped_fine_grid_is_misplaced(flip: tuple[slice, slice]) -> None:
    assert max(fine_grid_misplacement(outer_fine_grid()[flip])) > 10


def test_an_untransposed_fine_grid_is_misplaced() -> None:
    untransposed = np.kron(OUTER.reshape(9, 24), np.ones((5, 3), dtype=np.int64))
    assert max(fine_grid_misplacement(untransposed)) > 10


def test_fine_patch_covers_exactly_the_shared_sensors() -> None:
    fine = outer_fine_grid()
    coarse = np.kron(OUTER_COARSE_GRID.T, np.ones((5, 3), dtype=np.int64))
    in_patch = np.zeros((45, 72), dtype=bool)
    in_patch[15:30, 30:42] = True
    np.testing.assert_array_equal(in_patch, np.isin(coarse, OUTER_SHARED_IDS))
    np.testing.assert_array_equal(in_patch, np.isin(fine, OUTER_PATCH_GRID))
    ids, cells = np.unique(fine, return_counts=True)
    np.testing.assert_array_equal(ids, np.sort(FACE_IDS[Face.OUTER]))
    np.testing.assert_array_equal(cells, np.where(np.isin(ids, OUTER_PATCH_GRID), 6, 15))
