"""The light map: against exact solid angles, symmetries and bookkeeping of photons."""

from pathlib import Path

import numpy as np
import pytest
import torch

from xec.detector import geometry as detector_geometry
from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.detector.geometry import Geometry
from xec.detector.solid_angle import fractions
from xec.simulation.optics import MPPC_AREA, Illumination, Optics, OpticsConfig
from xec.simulation.shower import Deposits, ShowerConfig, draw_deposits
from xec.simulation.vertex import SourceConfig, draw_gammas

INFINITE = float("inf")
VACUUM = OpticsConfig(
    light_yield=1.0,
    collection=1.0,
    absorption_length=INFINITE,
    rayleigh_length=INFINITE,
)
GEOMETRY = detector_geometry.parametric()
SURVEY = Path(__file__).parents[1] / "../shared/data/sensor_directions.txt"


def _optics(config: OpticsConfig = VACUUM) -> Optics:
    return Optics(config, GEOMETRY, "cpu")


def _point(*xyz: float, energy: float = 1.0) -> Deposits:
    return Deposits(
        torch.tensor([[xyz]], dtype=torch.float32),
        torch.full((1, 1), energy),
        torch.zeros(1, 1),
    )


def _showers(n: int) -> Deposits:
    rng = torch.Generator().manual_seed(21)
    return draw_deposits(draw_gammas(n, SourceConfig(), rng), ShowerConfig(), rng)


def _exact(channels: np.ndarray, xyz: np.ndarray, geometry: Geometry = GEOMETRY) -> np.ndarray:
    return fractions(geometry, xyz, channels)[0]


POINTS = (
    (-65.5, 0.3, 0.2),  # half a centimetre above the sensors
    (-66.7, 4.0, -9.0),
    (-80.0, 10.0, 20.0),
    (-50.0, 60.0, -5.0),
    (-95.0, -5.0, 1.0),
)


def _check_against_exact(geometry: Geometry, xyz: tuple[float, float, float]) -> None:
    shown = Optics(VACUUM, geometry, "cpu").illuminate(_point(*xyz))
    distance = np.linalg.norm(geometry.position - np.array(xyz), axis=1)
    sure = np.flatnonzero((np.arange(N_CHANNELS) < N_MPPC) | (distance > 7.0))
    expected = _exact(sure, np.array(xyz), geometry)
    np.testing.assert_allclose(shown.light[0, sure].numpy(), expected, rtol=4e-3, atol=2e-8)


@pytest.mark.parametrize("point", POINTS)
def test_a_deposit_in_vacuum_gives_yield_times_solid_angle(point) -> None:
    _check_against_exact(GEOMETRY, point)


@pytest.mark.parametrize("point", POINTS[1:])
def test_it_does_so_for_surveyed_sensors_too(point) -> None:
    if not SURVEY.exists():
        pytest.skip("the surveyed table is not here")
    _check_against_exact(detector_geometry.load_survey(SURVEY), point)


def test_the_far_formula_alone_would_fail_close_to_the_sensors() -> None:
    point = np.array([-65.5, 0.3, 0.2])
    offset = point - GEOMETRY.position[:N_MPPC]
    height = (offset * GEOMETRY.normal[:N_MPPC]).sum(1)
    plain = MPPC_AREA * height / (4 * np.pi * np.linalg.norm(offset, axis=1) ** 3)
    brightest = np.argsort(plain)[-9:]
    assert np.abs(plain[brightest] / _exact(brightest, point) - 1).max() > 0.1


def test_the_documented_error_of_close_pmts() -> None:
    """PMTs between 4 and 7 cm away are right to 4 %, on axis and off."""
    outer = 4092 + 9 * 5 + 4
    position, normal = GEOMETRY.position[outer], GEOMETRY.normal[outer]
    for distance in (4.0, 5.0, 7.0):
        for angle in np.radians([0.0, 30.0, 60.0]):
            point = position + distance * (np.cos(angle) * normal + np.sin(angle) * np.eye(3)[2])
            light = _optics().illuminate(_point(*point)).light[0, outer]
            exact = _exact(np.array([outer]), point)[0]
            assert float(light) == pytest.approx(exact, rel=0.04)


def test_light_is_linear_in_the_deposits() -> None:
    optics = _optics(OpticsConfig())
    both = _showers(6)
    single = [
        Deposits(both.xyz[:, part], both.energy[:, part], both.delay[:, part])
        for part in (slice(0, 4), slice(4, None))
    ]
    scatter_free = Optics(OpticsConfig(rayleigh_length=INFINITE), GEOMETRY, "cpu")
    summed = sum(scatter_free.illuminate(part).light for part in single)
    torch.testing.assert_close(scatter_free.illuminate(both).light, summed, rtol=1e-4, atol=1e-4)
    doubled = Deposits(both.xyz, 2 * both.energy, both.delay)
    once, twice = optics.illuminate(both), optics.illuminate(doubled)
    torch.testing.assert_close(twice.light, 2 * once.light, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twice.arrival, once.arrival, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("axis", "permutation"),
    [(2, detector_geometry.mirror_z()), (1, detector_geometry.mirror_y())],
)
def test_the_light_map_has_the_detectors_mirror_symmetries(axis: int, permutation) -> None:
    optics = _optics(OpticsConfig())
    deposits = _showers(8)
    mirrored = deposits.xyz.clone()
    mirrored[..., axis] *= -1
    straight = optics.illuminate(deposits)
    reflected = optics.illuminate(Deposits(mirrored, deposits.energy, deposits.delay))
    back = torch.from_numpy(np.asarray(permutation).copy())
    torch.testing.assert_close(reflected.light[:, back], straight.light, rtol=2e-3, atol=0.05)
    seen = straight.light > 1.0
    difference = (reflected.arrival[:, back] - straight.arrival)[seen]
    assert float(difference.abs().max()) < 1e-3
    assert not torch.allclose(reflected.light, straight.light, rtol=0.05, atol=1.0)


def test_no_more_photons_arrive_than_were_emitted() -> None:
    deposits = _showers(200)
    config = OpticsConfig()
    emitted = deposits.energy.sum(1) * config.light_yield * config.collection
    vacuum = OpticsConfig(absorption_length=INFINITE, rayleigh_length=INFINITE)
    arriving = Optics(config, GEOMETRY, "cpu").illuminate(deposits).light.sum(1) / emitted
    covered = Optics(vacuum, GEOMETRY, "cpu").illuminate(deposits).light.sum(1) / emitted
    assert float(covered.max()) < 0.7  # sensors cover 60 % of the inner face and less elsewhere
    assert float(covered.min()) > 0.2
    assert bool((arriving < covered).all())  # absorption only takes away


def test_light_arrives_after_the_straight_flight() -> None:
    point = (-80.0, 10.0, 20.0)
    arrival = _optics().illuminate(_point(*point)).arrival[0].double().numpy()
    distance = np.linalg.norm(GEOMETRY.position - np.array(point), axis=1)
    facing = ((np.array(point) - GEOMETRY.position) * GEOMETRY.normal).sum(1) > 1.0
    np.testing.assert_allclose(arrival[facing], distance[facing] * 1.65 / 29.9792458, atol=1e-3)


def test_scattering_delays_and_never_hastens_the_light() -> None:
    deposits = _showers(20)
    straight = _optics(OpticsConfig(rayleigh_length=INFINITE)).illuminate(deposits)
    scattered = _optics(OpticsConfig()).illuminate(deposits)
    seen = straight.light > 10.0
    later = (scattered.arrival - straight.arrival)[seen]
    assert float(later.mean()) > 0.05
    assert float((later > -0.02).float().mean()) > 0.99


def test_a_gamma_without_energy_gives_no_light_and_no_nan() -> None:
    dark: Illumination = _optics(OpticsConfig()).illuminate(_point(-70.0, 0.0, 0.0, energy=0.0))
    assert float(dark.light.abs().max()) == 0.0
    assert bool(torch.isfinite(dark.arrival).all())


def test_every_place_in_the_xenon_gives_finite_light() -> None:
    random = np.random.default_rng(2)
    depth, azimuth = random.uniform(0.0, 38.5, 400), random.uniform(-1.09, 1.09, 400)
    radius = 64.97 + depth
    xyz = np.stack(
        [-radius * np.cos(azimuth), radius * np.sin(azimuth), random.uniform(-33, 33, 400)], 1
    )
    deposits = Deposits(
        torch.tensor(xyz, dtype=torch.float32).unsqueeze(0),
        torch.ones(1, 400),
        torch.zeros(1, 400),
    )
    shown = _optics(OpticsConfig()).illuminate(deposits)
    assert bool(torch.isfinite(shown.light).all())
    assert bool((shown.light >= 0).all())
    assert bool(torch.isfinite(shown.arrival).all())
