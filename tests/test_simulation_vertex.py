"""The gamma before the shower: vertex, direction, conversion, coordinates."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from xec.detector.coordinates import REFF, direction_from_angles
from xec.detector.coordinates import uvw_from_xyz as detector_uvw
from xec.simulation.vertex import (
    SourceConfig,
    angles_from_direction,
    conversion_path,
    draw_gammas,
    uvw_from_xyz,
)

N = 20_000
CONFIG = SourceConfig()


@pytest.fixture(scope="module")
def gammas():
    return draw_gammas(N, CONFIG, torch.Generator().manual_seed(11))


def _entry(gammas) -> tuple[np.ndarray, np.ndarray]:
    """Where each gamma crosses the inner cylinder (closed form), and its path beyond."""
    start = gammas.vertex.double().numpy()
    step = gammas.direction.double().numpy()
    a = (step[:, :2] ** 2).sum(1)
    b = (start[:, :2] * step[:, :2]).sum(1)
    c = (start[:, :2] ** 2).sum(1) - REFF**2
    length = (-b + np.sqrt(b * b - a * c)) / a
    entry = start + length[:, None] * step
    return entry, np.linalg.norm(gammas.xyz.double().numpy() - start, axis=1) - length


def test_conversion_depth_is_exponential_along_the_path(gammas) -> None:
    _, path = _entry(gammas)
    mean = 9 / 7 * 2.77
    assert kstest(path, "expon", args=(0.0, mean)).pvalue > 0.01


def test_the_depth_test_would_see_radiation_lengths_without_nine_sevenths(gammas) -> None:
    _, path = _entry(gammas)
    assert kstest(path, "expon", args=(0.0, 2.77)).pvalue < 1e-6


def test_conversion_stays_within_the_xenon_depth() -> None:
    thin = SourceConfig(xenon_depth=1.0)
    path = conversion_path(5000, thin, torch.Generator().manual_seed(1))
    assert 0.0 <= path.min() < 0.01
    assert 0.99 < path.max() <= 1.0


def test_entry_points_are_uniform_and_cover_the_fiducial_face(gammas) -> None:
    uvw = detector_uvw(_entry(gammas)[0])
    assert kstest(uvw[:, 0], "uniform", args=(-26.0, 52.0)).pvalue > 0.01
    assert kstest(uvw[:, 1], "uniform", args=(-69.5, 139.0)).pvalue > 0.01
    assert CONFIG.half_u > 23.9
    assert CONFIG.half_v > 67.9


def test_directions_are_unit_vectors_from_the_vertex_to_the_conversion(gammas) -> None:
    flight = (gammas.xyz - gammas.vertex).double()
    flight = flight / flight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(gammas.direction.double(), flight, atol=2e-6, rtol=0)


def test_vertices_lie_on_the_slanted_target(gammas) -> None:
    x, y, z = gammas.vertex.double().numpy().T
    np.testing.assert_allclose(x, z * np.tan(np.radians(15)), atol=1e-5)
    assert y.std() == pytest.approx(CONFIG.vertex_y_sigma, rel=0.03)
    assert z.std() == pytest.approx(CONFIG.vertex_z_sigma, rel=0.03)


def test_uvw_is_that_of_the_detector(gammas) -> None:
    ours = uvw_from_xyz(gammas.xyz.double()).numpy()
    np.testing.assert_allclose(ours, detector_uvw(gammas.xyz.double().numpy()), atol=1e-9)


def test_angles_give_the_direction_back(gammas) -> None:
    angles = angles_from_direction(gammas.direction.double())
    back = direction_from_angles(angles.numpy())
    np.testing.assert_allclose(back, gammas.direction.double().numpy(), atol=1e-6)


def test_energy_is_fixed_or_flat() -> None:
    rng = torch.Generator().manual_seed(3)
    assert (draw_gammas(100, CONFIG, rng).energy == 52.8).all()
    energy = draw_gammas(N, SourceConfig(energy=(20.0, 60.0)), rng).energy.numpy()
    assert kstest(energy, "uniform", args=(20.0, 40.0)).pvalue > 0.01
