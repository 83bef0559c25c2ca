"""Solid angles: closed forms, numerical integration, closed surfaces, symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ellipk, elliprf, elliprj

from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.detector.geometry import Geometry, mirror_y, mirror_z, parametric
from xec.detector.solid_angle import CHIP, CHIP_GAP, PMT_RADIUS, disc, fractions, mppc, rectangle

MPPC_AREA = 4 * CHIP**2
PMT_AREA = np.pi * PMT_RADIUS**2

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


def integrated_rectangle(x: float, y: float, h: float, width: float, length: float) -> float:
    """Integral of h / r^3 over the rectangle."""
    a, b = NODES * width / 2, NODES * length / 2
    square = (x - a[:, None]) ** 2 + (y - b) ** 2 + h**2
    return float(WEIGHTS @ (h / square**1.5) @ WEIGHTS * width * length / 4)


def integrated_disc(d: float, h: float, radius: float) -> float:
    """Integral of h rho / r^3 over the disc, Gauss in rho, trapezium in the angle."""
    rho = (NODES + 1) * radius / 2
    psi = np.arange(400) * 2 * np.pi / 400
    square = rho[:, None] ** 2 + d**2 - 2 * d * rho[:, None] * np.cos(psi) + h**2
    ring = (h * rho[:, None] / square**1.5).sum(axis=1) * 2 * np.pi / 400
    return float(WEIGHTS @ ring * radius / 2)


@given(h=st.floats(0.01, 100), width=st.floats(0.1, 10), length=st.floats(0.1, 10))
def test_rectangle_on_its_axis(h: float, width: float, length: float) -> None:
    a, b = width / 2, length / 2
    expected = 4 * np.arcsin(a * b / np.sqrt((a**2 + h**2) * (b**2 + h**2)))
    assert rectangle(0, 0, h, width, length) == pytest.approx(expected, rel=1e-9)


@given(h=st.floats(0.001, 1000), radius=st.floats(0.1, 10))
def test_disc_on_its_axis(h: float, radius: float) -> None:
    # 1 - h / hypot(h, R), without its cancellation far away.
    slant = np.hypot(h, radius)
    expected = 2 * np.pi * radius**2 / (slant * (slant + h))
    assert disc(0, h, radius) == pytest.approx(expected, rel=1e-7, abs=1e-14)


@settings(max_examples=40)
@given(x=st.floats(-5, 5), y=st.floats(-5, 5), h=st.floats(0.5, 20))
def test_rectangle_equals_its_integral(x: float, y: float, h: float) -> None:
    assert rectangle(x, y, h, 3, 2) == pytest.approx(integrated_rectangle(x, y, h, 3, 2), rel=1e-8)


@settings(max_examples=40)
@given(d=st.floats(0, 12), h=st.floats(0.5, 20))
def test_disc_equals_its_integral(d: float, h: float) -> None:
    assert disc(d, h, 2.25) == pytest.approx(integrated_disc(d, h, 2.25), rel=1e-8)


@pytest.mark.parametrize("h", [0.5, 3.0, 20.0])
def test_disc_on_its_rim(h: float) -> None:
    rim = disc(2.25, h, 2.25)
    assert rim == pytest.approx(integrated_disc(2.25, h, 2.25), rel=1e-8)
    for side in (1 - 1e-9, 1 + 1e-9, 1 - 1e-13, 1 + 1e-13):
        assert disc(2.25 * side, h, 2.25) == pytest.approx(rim, rel=1e-7)


def paxton(d: float, h: float, R: float, sign_of_third: float, square_the_modulus: bool) -> float:
    """Paxton's formula with the slips that its notation invites."""
    m = 4 * d * R / (h**2 + (d + R) ** 2)
    parameter = m if square_the_modulus else np.sqrt(m)
    n = 4 * d * R / (d + R) ** 2
    third = ellipk(parameter) + sign_of_third * n / 3 * elliprj(0, 1 - parameter, 1, 1 - n)
    bracket = ellipk(parameter) + (R - d) / (R + d) * third
    return float(2 * np.pi * (d < R) - 2 * h / np.hypot(h, d + R) * bracket)


def test_the_integral_tells_right_arguments_from_wrong_ones() -> None:
    for d in (1.0, 4.0):
        expected = integrated_disc(d, 3, 2.25)
        assert paxton(d, 3, 2.25, 1, True) == pytest.approx(expected, rel=1e-9)
        assert paxton(d, 3, 2.25, -1, True) != pytest.approx(expected, rel=0.01)
        assert paxton(d, 3, 2.25, 1, False) != pytest.approx(expected, rel=0.01)
    assert elliprf(0, 1 - 0.3, 1) == pytest.approx(ellipk(0.3))


@settings(max_examples=40)
@given(x=st.floats(-3, 3), y=st.floats(-3, 3), h=st.floats(0.05, 30))
def test_mppc_is_four_chips(x: float, y: float, h: float) -> None:
    shift = (CHIP + CHIP_GAP) / 2
    chips = [
        rectangle(x - a, y - b, h, CHIP, CHIP) for a in (-shift, shift) for b in (-shift, shift)
    ]
    assert mppc(x, y, h) == pytest.approx(sum(chips), rel=1e-9)


def test_chip_sizes_give_the_published_active_area() -> None:
    assert pytest.approx(139, abs=0.5) == 100 * MPPC_AREA  # mm^2


@pytest.mark.parametrize(
    ("x", "covered"), [(0.024, 0), (0.026, 1), (0.614, 1), (0.616, 0), (-0.614, 1), (-0.616, 0)]
)
def test_chips_end_where_they_should(x: float, covered: int) -> None:
    # A point that all but touches the plane sees half of space as chip, or none.
    assert mppc(x, 0.3, 1e-6) == pytest.approx(covered * 2 * np.pi, abs=0.01)
    assert mppc(0.3, x, 1e-6) == pytest.approx(covered * 2 * np.pi, abs=0.01)


@pytest.mark.parametrize(("formula", "area"), [("mppc", MPPC_AREA), ("disc", PMT_AREA)])
def test_far_away_only_area_distance_and_inclination_count(formula: str, area: float) -> None:
    distance = 200.0
    for inclination in (0.0, 0.5, 1.2):
        h, d = distance * np.cos(inclination), distance * np.sin(inclination)
        got = mppc(d * 0.6, d * 0.8, h) if formula == "mppc" else disc(d, h)
        assert got == pytest.approx(area * np.cos(inclination) / distance**2, rel=1e-3)


@pytest.mark.parametrize("h", [0.0, -1e-9, -5.0])
def test_nothing_is_seen_from_behind(h: float) -> None:
    for x in (0.0, 0.3, 1.0, 40.0):
        assert mppc(x, 0.1, h) == 0
        assert disc(x, h) == 0
        assert rectangle(x, 0, h, 2, 2) == 0


@given(x=st.floats(-0.99, 0.99), y=st.floats(-0.99, 0.99), z=st.floats(-0.99, 0.99))
def test_six_rectangles_close_a_box(x: float, y: float, z: float) -> None:
    a, b, c = 3.0, 5.0, 2.0  # half sides
    x, y, z = a * x, b * y, c * z
    walls = sum(
        rectangle(y, z, a + side * x, 2 * b, 2 * c)
        + rectangle(x, z, b + side * y, 2 * a, 2 * c)
        + rectangle(x, y, c + side * z, 2 * a, 2 * b)
        for side in (-1, 1)
    )
    assert walls == pytest.approx(4 * np.pi, rel=1e-10)


def test_a_disc_and_the_rest_of_its_plane_make_a_half_space() -> None:
    assert disc([0.0, 3.0, 50.0], 2.0, 1e7) == pytest.approx(2 * np.pi, rel=1e-5)


def fibonacci(n: int) -> np.ndarray:
    """n unit vectors spread evenly over the sphere."""
    z = 1 - (2 * np.arange(n) + 1) / n
    azimuth = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    return np.stack([*np.sqrt(1 - z**2) * [np.cos(azimuth), np.sin(azimuth)], z], axis=1)


RADIUS = 60.0


def sphere() -> Geometry:
    """Both kinds of sensors, each spread over a sphere of its own, looking at the middle."""
    outwards = np.concatenate([fibonacci(N_MPPC), fibonacci(N_CHANNELS - N_MPPC)])
    return Geometry(RADIUS * outwards, -outwards)


def test_a_closed_sphere_of_sensors_collects_its_coverage() -> None:
    points = np.array([[0, 0, 0], [10, 0, 0], [-12, 20, 7], [0, 3, -30]])
    seen = fractions(sphere(), points)
    for part, n, area in (
        (slice(None, N_MPPC), N_MPPC, MPPC_AREA),
        (slice(N_MPPC, None), N_CHANNELS - N_MPPC, PMT_AREA),
    ):
        coverage = n * area / (4 * np.pi * RADIUS**2)
        np.testing.assert_allclose(seen[:, part].sum(axis=1), coverage, rtol=2e-3)


def test_sensors_that_look_outwards_see_nothing_inside() -> None:
    inwards = sphere()
    outwards = Geometry(inwards.position, -inwards.normal)
    assert not fractions(outwards, np.array([[5.0, 1.0, 2.0]])).any()


@pytest.mark.parametrize(
    ("permutation", "signs"), [(mirror_z(), (1, 1, -1)), (mirror_y(), (1, -1, 1))]
)
def test_mirrored_points_see_mirrored_sensors(
    permutation: np.ndarray, signs: tuple[int, int, int]
) -> None:
    points = np.array([[-70, 12, 5], [-66, -40, 20], [-95, 3, -18]])
    here = fractions(parametric(), points)
    there = fractions(parametric(), points * signs)
    np.testing.assert_allclose(there, here[:, permutation], rtol=1e-9, atol=1e-15)


def test_sensors_turn_with_the_cylinder() -> None:
    # The same place in front of every row: the chips' axes must follow the azimuth.
    geometry = parametric()
    ids = 44 * np.arange(93) + 20
    normal = geometry.normal[ids]
    tangent = np.cross([0, 0, 1], normal)
    points = geometry.position[ids] + 0.6 * normal + 0.5 * tangent + [0, 0, 0.2]
    own = np.diag(fractions(geometry, points, ids))
    np.testing.assert_allclose(own, mppc(0.2, 0.5, 0.6) / (4 * np.pi), rtol=1e-9)


def test_chosen_channels_keep_their_order() -> None:
    points = np.array([[-70, 12, 5], [-66, -40, 20]])
    ids = np.array([4600, 17, 4092, 4091])
    every = fractions(parametric(), points)
    np.testing.assert_array_equal(fractions(parametric(), points, ids), every[:, ids])
    np.testing.assert_array_equal(fractions(parametric(), points[0], ids), every[:1, ids])
    assert fractions(parametric(), np.empty((0, 3))).shape == (0, N_CHANNELS)


def test_many_points_equal_one_at_a_time_bit_for_bit() -> None:
    points = np.random.default_rng(3).uniform([-100, -50, -25], [-66, 50, 25], (19, 3))
    single = np.concatenate([fractions(parametric(), point[None]) for point in points])
    np.testing.assert_array_equal(fractions(parametric(), points), single)


def test_an_unknown_point_sees_nothing() -> None:
    assert not fractions(parametric(), np.full((1, 3), np.nan)).any()
