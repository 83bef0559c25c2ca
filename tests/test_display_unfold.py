"""The unfolded detector: each sensor once, at its place, touching its neighbours."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from xec.detector.channels import DS_GRID, FACE_IDS, INNER_GRID, N_CHANNELS, US_GRID, Face
from xec.detector.coordinates import REFF
from xec.detector.geometry import parametric
from xec.display.unfold import DISC_RADIUS, GAP, inner_point, unfolded

POSITION = parametric().position
AZIMUTH_LENGTH = REFF * np.arctan2(POSITION[:, 1], -POSITION[:, 0])
TILED = (Face.INNER, Face.US, Face.DS, Face.OUTER)


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def boxes(face: Face) -> np.ndarray:
    """Left, right, bottom and top of each sensor of a face of rectangles, (n, 4)."""
    corners = np.stack([unfolded().polygons[channel] for channel in FACE_IDS[face]])
    low, high = corners.min(axis=1), corners.max(axis=1)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)


def test_every_channel_has_its_own_place() -> None:
    assert len(unfolded().polygons) == N_CHANNELS
    assert pdist(unfolded().centres).min() > 1.0
    middles = np.stack([polygon.mean(axis=0) for polygon in unfolded().polygons])
    np.testing.assert_allclose(middles, unfolded().centres, atol=1e-9)


def test_inner_sensors_are_drawn_at_their_u_and_v() -> None:
    ids = FACE_IDS[Face.INNER]
    expected = np.stack([-POSITION[ids, 2], AZIMUTH_LENGTH[ids]], axis=1)
    np.testing.assert_allclose(unfolded().centres[ids], expected, atol=1e-9)
    u, v = float(POSITION[1234, 2]), float(AZIMUTH_LENGTH[1234])
    np.testing.assert_allclose(unfolded().centres[1234], inner_point(u, v), atol=1e-9)


@pytest.mark.parametrize("face", TILED)
def test_azimuth_is_the_height_on_all_faces_of_the_row(face: Face) -> None:
    ids = FACE_IDS[face]
    np.testing.assert_allclose(unfolded().centres[ids, 1], AZIMUTH_LENGTH[ids], atol=0.01)


@pytest.mark.parametrize("grid", [US_GRID, DS_GRID])
def test_along_a_side_face_distances_are_true(grid: np.ndarray) -> None:
    for row in (0, 11, 23):
        drawn = cdist(unfolded().centres[grid[row]], unfolded().centres[grid[row]])
        np.testing.assert_allclose(drawn, cdist(POSITION[grid[row]], POSITION[grid[row]]))


@pytest.mark.parametrize("face", [Face.TOP, Face.BOTTOM])
def test_plane_faces_are_drawn_as_they_are(face: Face) -> None:
    ids = FACE_IDS[face]
    drawn = pdist(unfolded().centres[ids])
    np.testing.assert_allclose(drawn, pdist(POSITION[ids]), atol=1e-9)
    np.testing.assert_allclose(unfolded().centres[ids, 0], -POSITION[ids, 2], atol=1e-9)


def test_outer_sensors_are_drawn_at_their_z() -> None:
    ids = FACE_IDS[Face.OUTER]
    left, right, _, _ = unfolded().extent(Face.OUTER)
    drawn = unfolded().centres[ids, 0] - (left + right) / 2
    # The patch's sensors stand 0.03 cm off the fine grid, at 6.2 and 12.4 cm.
    np.testing.assert_allclose(drawn, POSITION[ids, 2], atol=0.04)


def test_faces_stand_in_their_order_with_one_gap() -> None:
    extents = [unfolded().extent(face) for face in (Face.DS, Face.INNER, Face.US, Face.OUTER)]
    for (_, right, *_), (left, *_) in pairwise(extents):
        assert left - right == pytest.approx(GAP)
    _, _, bottom, top = unfolded().extent(Face.INNER)
    assert unfolded().extent(Face.TOP)[2] - top == pytest.approx(GAP)
    assert bottom - unfolded().extent(Face.BOTTOM)[3] == pytest.approx(GAP)


def test_what_touches_in_reality_touches_in_the_picture() -> None:
    """On each side of a seam lie the sensors that are closest to it in space."""
    seams = (
        (INNER_GRID[:, -1], Face.DS),
        (INNER_GRID[:, 0], Face.US),
        (INNER_GRID[0], Face.TOP),
        (INNER_GRID[-1], Face.BOTTOM),
    )
    for edge, face in seams:
        ids = FACE_IDS[face]
        nearest_in_space = cdist(POSITION[edge], POSITION[ids]).argmin(axis=1)
        drawn = cdist(unfolded().centres[edge], unfolded().centres[ids])
        surplus = drawn[np.arange(len(edge)), nearest_in_space] - drawn.min(axis=1)
        assert surplus.max() < 1.0


def test_outer_hangs_on_the_far_edge_of_us() -> None:
    """Both edges of that seam lie at z < 0."""
    outer = FACE_IDS[Face.OUTER]
    first = outer[unfolded().centres[outer, 0] < unfolded().extent(Face.OUTER)[0] + 6]
    assert len(first) == 24
    assert (POSITION[first, 2] < -40).all()
    assert (POSITION[US_GRID[:, -1], 2] < -40).all()


@pytest.mark.parametrize("face", TILED)
def test_rectangles_tile_their_face(face: Face) -> None:
    """Their areas add up to the face, and each point of it lies in exactly one of them."""
    total = sum(area(unfolded().polygons[channel]) for channel in FACE_IDS[face])
    assert total == pytest.approx(area(unfolded().outlines[face]), rel=1e-9)
    left, right, bottom, top = unfolded().extent(face)
    x, y = np.random.default_rng(3).uniform((left, bottom), (right, top), (500, 2)).T[..., None]
    box = boxes(face).T
    inside = (box[0] < x) & (x < box[1]) & (box[2] < y) & (y < box[3])
    assert (inside.sum(axis=1) == 1).all()


@pytest.mark.parametrize("face", [Face.TOP, Face.BOTTOM])
def test_discs_touch_and_do_not_overlap(face: Face) -> None:
    assert pdist(unfolded().centres[FACE_IDS[face]]).min() == pytest.approx(2 * DISC_RADIUS)
    regular = 24 / 2 * DISC_RADIUS**2 * np.sin(2 * np.pi / 24)
    for channel in FACE_IDS[face]:
        assert area(unfolded().polygons[channel]) == pytest.approx(regular)


def test_sensors_of_the_centre_patch_are_smaller() -> None:
    """Three by two cells of the fine grid, against five by three."""
    coarse, fine = (area(unfolded().polygons[channel]) for channel in (4092, 4742))
    assert fine / coarse == pytest.approx(6 / 15)
    assert area(unfolded().polygons[4185]) == pytest.approx(fine)
