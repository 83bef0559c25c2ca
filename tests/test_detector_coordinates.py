"""u, v, w and angles: definitions, round trips, the fiducial volume's edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec.detector.coordinates import (
    REFF,
    angles_from_direction,
    direction_from_angles,
    inside_fiducial,
    uvw_from_xyz,
    xyz_from_uvw,
)
from xec.detector.geometry import mirror_y, mirror_z, parametric


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@given(u=floats(-60, 60), v=floats(-3.14, 3.14), w=floats(-60, 60))
def test_uvw_round_trip(u: float, v: float, w: float) -> None:
    uvw = np.array([u, v * REFF, w])
    np.testing.assert_allclose(uvw_from_xyz(xyz_from_uvw(uvw)), uvw, rtol=0, atol=1e-9)


@given(x=floats(-120, 120), y=floats(-120, 120), z=floats(-60, 60))
def test_xyz_round_trip(x: float, y: float, z: float) -> None:
    xyz = np.array([x, y, z])
    np.testing.assert_allclose(xyz_from_uvw(uvw_from_xyz(xyz)), xyz, rtol=0, atol=1e-9)


@given(theta=floats(0.01, 179.99), phi=floats(-179.99, 179.99))
def test_angles_round_trip(theta: float, phi: float) -> None:
    angle = np.array([theta, phi])
    direction = direction_from_angles(angle)
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(angles_from_direction(3 * direction), angle, rtol=0, atol=1e-9)


def test_v_follows_the_published_definition() -> None:
    rng = np.random.default_rng(1)
    x, y, z = rng.uniform(-100, -1, 50), rng.uniform(-90, 90, 50), rng.uniform(-40, 40, 50)
    phi = np.pi + np.arctan2(-y, -x)
    expected = np.stack([z, -(phi - np.pi) * REFF, np.sqrt(x**2 + y**2) - REFF], axis=1)
    got = uvw_from_xyz(np.stack([x, y, z], axis=1))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


def test_known_directions() -> None:
    angles = [[90, 0], [90, 90], [0, 0], [180, 0]]
    expected = [[-1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]]
    np.testing.assert_allclose(direction_from_angles(angles), expected, atol=1e-15)


def test_inner_face_has_no_depth_and_mirrors_flip_one_coordinate() -> None:
    uvw = uvw_from_xyz(parametric().position)
    np.testing.assert_allclose(uvw[:4092, 2], 0, atol=1e-12)
    np.testing.assert_allclose(uvw[mirror_z()], uvw * [-1, 1, 1], atol=1e-12)
    np.testing.assert_allclose(uvw[mirror_y()], uvw * [1, -1, 1], atol=1e-12)


def test_leading_axes_and_precision_are_kept() -> None:
    xyz = np.full((2, 3, 3), -50, dtype=np.float32)
    assert uvw_from_xyz(xyz).shape == (2, 3, 3)
    for function, width in ((uvw_from_xyz, 3), (xyz_from_uvw, 3), (angles_from_direction, 3)):
        assert function(np.ones((4, width), dtype=np.float32)).dtype == np.float32
        assert function(np.ones((4, width), dtype=np.int64)).dtype == np.float64
    assert direction_from_angles(np.ones((4, 2), dtype=np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("uvw", "inside"),
    [
        ((0, 0, 0), True),
        ((23.89, -67.89, 41.99), True),
        ((23.9, 0, 5), False),
        ((0, 67.9, 5), False),
        ((0, 0, -1e-6), False),
        ((0, 0, 42), False),
        ((np.nan, 0, 5), False),
        ((0, 0, np.nan), False),
    ],
)
def test_fiducial_volume(uvw: tuple[float, float, float], inside: bool) -> None:
    assert bool(inside_fiducial(np.array(uvw))) is inside
    np.testing.assert_array_equal(inside_fiducial(np.array([[uvw], [uvw]])), [[inside], [inside]])
