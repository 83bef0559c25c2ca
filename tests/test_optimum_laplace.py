"""Information: closed forms, additivity, and that no sensor's death brings any."""

import dataclasses
import math

import pytest
import torch

from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.detector.geometry import parametric
from xec.optimum.events import EventSource
from xec.optimum.laplace import Laplace, deviations, light_information
from xec.optimum.latent import LatentModel
from xec.optimum.lightmap import LightMap
from xec.optimum.lost import point_widening, shower_widening
from xec.optimum.point_source import axes_of_uvw, point_bound, point_information, xyz_of_uvw
from xec.optimum.readings import ReadingModel
from xec.simulation.electronics import ElectronicsConfig
from xec.simulation.generator import SimulationConfig
from xec.simulation.optics import Optics, OpticsConfig
from xec.simulation.shower import Deposits
from xec.simulation.vertex import SourceConfig, uvw_from_xyz

GEOMETRY = parametric()
CONFIG = SimulationConfig()
MODEL = LatentModel(SourceConfig(energy=(12.0, 62.0)))
MAP = LightMap(CONFIG.optics, GEOMETRY)
LAPLACE = Laplace(MODEL, MAP)
EVENTS = EventSource(MODEL, CONFIG, GEOMETRY, 3).draw(4)
JACOBIAN = LAPLACE.jacobians(EVENTS.z, times=True)
POISSON = ElectronicsConfig(pedestal=0.0, gain_spread=0.0)


def test_linear_and_gaussian_it_is_the_conditional_variance() -> None:
    # x = J z + noise: the variance of a z given x from the joint covariance of (a z, x).
    rng = torch.Generator().manual_seed(1)
    J, a = (torch.randn(1, n, 5, generator=rng).double() for n in (8, 2))
    noise = torch.rand(1, 8, generator=rng).double() + 0.1
    total = light_information(J, 1 / noise) + torch.eye(5)
    joint = J @ J.mT + torch.diag_embed(noise)
    gain = a @ J.mT @ torch.linalg.inv(joint)
    expected = (a @ a.mT - gain @ J @ a.mT).diagonal(dim1=1, dim2=2).sqrt()
    torch.testing.assert_close(deviations(a, total), expected)


def test_information_adds_up_over_sensors() -> None:
    mask = torch.rand(4, N_CHANNELS, generator=torch.Generator().manual_seed(1)) < 0.5
    counts = JACOBIAN._replace(of_time=None)
    prior = torch.eye(EVENTS.z.shape[1], dtype=torch.float64)
    parts = [LAPLACE.information(counts, EVENTS, part) - prior for part in (mask, ~mask)]
    whole = LAPLACE.information(counts, EVENTS, torch.ones_like(mask)) - prior
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_dead_sensors_never_help() -> None:
    rng = torch.Generator().manual_seed(2)
    live = torch.ones(4, N_CHANNELS, dtype=torch.bool)
    before = LAPLACE.optimum(JACOBIAN, EVENTS, live)
    for _ in range(4):
        live = live & (torch.rand(live.shape, generator=rng) < 0.7)
        after = LAPLACE.optimum(JACOBIAN, EVENTS, live)
        assert bool((after.gamma >= before.gamma * (1 - 1e-9)).all())
        assert bool((after.light >= before.light * (1 - 1e-9)).all())
        before = after


def test_knowing_more_never_hurts() -> None:
    counts = JACOBIAN._replace(of_time=None)
    plain = LAPLACE.optimum(counts, EVENTS, EVENTS.live)
    for better in (JACOBIAN, counts.at_known_energy()):
        best = LAPLACE.optimum(better, EVENTS, EVENTS.live)
        assert bool((best.light <= plain.light * (1 + 1e-9)).all())
        assert float(best.light.sum()) < float(plain.light.sum())
    known = LAPLACE.optimum(counts.at_known_energy(), EVENTS, EVENTS.live)
    assert float(known.gamma[:, 0].abs().max()) == 0.0


def test_without_sensors_the_prior_remains() -> None:
    none = torch.zeros(4, N_CHANNELS, dtype=torch.bool)
    found = LAPLACE.optimum(JACOBIAN, EVENTS, none)
    torch.testing.assert_close(found.gamma, JACOBIAN.of_gamma.norm(dim=-1))


def test_brightness_of_a_source_in_a_known_place() -> None:
    # Only the energy unknown: sum (m/E)^2 / (F m / eff) = sum m eff / (F E^2).
    uvw, energy = torch.tensor([[3.0, -20.0, 6.0]]).double(), torch.tensor([40.0]).double()
    each = point_information(MAP, ReadingModel(POISSON), uvw, energy, torch.tensor([0.1]))
    light = MAP.light(xyz_of_uvw(uvw).unsqueeze(1), energy.unsqueeze(1))[0]
    expected = light[:N_MPPC].sum() * 0.1 / 1.3 + light[N_MPPC:].sum() * 0.16 / 1.2
    torch.testing.assert_close(each[0, :, 0, 0].sum(), expected / 40.0**2)


def test_place_of_a_source_over_one_sensor_far_away() -> None:
    # An inverse-square field: m ~ h / r^3, seen from h = r above a tiny sensor, d ln m/dw = -2 / h.
    vacuum = OpticsConfig(absorption_length=math.inf, rayleigh_length=math.inf)
    sensor = 44 * 46 + 22
    depth = 30.0
    uv = uvw_from_xyz(torch.tensor(GEOMETRY.position[sensor]))[:2]
    uvw = torch.tensor([[uv[0], uv[1], depth]]).double()
    light_map = LightMap(vacuum, GEOMETRY)
    each = point_information(
        light_map, ReadingModel(POISSON), uvw, torch.tensor([50.0]).double(), torch.tensor([0.2])
    )
    light = light_map.light(xyz_of_uvw(uvw).unsqueeze(1), torch.tensor([[50.0]]).double())
    expected = (2.0 / depth) ** 2 * float(light[0, sensor]) * 0.2 / 1.3
    assert float(each[0, sensor, 3, 3]) == pytest.approx(expected, rel=2e-3)
    assert float(each[0, sensor, 1, 1]) < 1e-4 * expected


def test_bound_of_a_point_from_differences_of_the_simulation() -> None:
    uvw, energy = torch.tensor([[2.0, 11.0, 5.0]]).double(), torch.tensor([[52.8]]).double()
    optics, step = Optics(CONFIG.optics, GEOMETRY, "cpu"), 0.05

    def light(place: torch.Tensor, brightness: torch.Tensor) -> torch.Tensor:
        xyz = xyz_of_uvw(place).unsqueeze(1).float()
        return optics.illuminate(Deposits(xyz, brightness.float(), 0 * energy.float())).light[0]

    rises = [(light(uvw, energy * 1.01) - light(uvw, energy * 0.99)) / (0.02 * 52.8)]
    for axis in range(3):
        move = torch.zeros_like(uvw)
        move[0, axis] = step
        rises.append((light(uvw + move, energy) - light(uvw - move, energy)) / (2 * step))
    gradient = torch.stack(rises, dim=-1).double()
    weight = 1 / LAPLACE.readings.variance(light(uvw, energy).double(), torch.tensor([0.12]))[0]
    expected = torch.linalg.inv(gradient.T @ (gradient * weight[:, None])).diagonal().sqrt()
    every = torch.zeros(1, N_CHANNELS, dtype=torch.bool)
    bound, wider, alone = point_widening(LAPLACE, uvw[0], 52.8, 0.12, every)
    torch.testing.assert_close(bound, expected, rtol=2e-2, atol=0)
    torch.testing.assert_close(wider, torch.ones(4).double())
    assert bool((alone >= 1 - 1e-12).all())
    assert float(alone.max()) > 1.0


def test_a_point_bound_widens_with_each_dead_sensor() -> None:
    uvw = torch.tensor([[2.0, 11.0, 1.5]]).double()
    each = point_information(
        MAP, ReadingModel(), uvw, torch.tensor([52.8]).double(), torch.tensor([0.12])
    )
    live = torch.rand(6, N_CHANNELS, generator=torch.Generator().manual_seed(5)) < 0.8
    chain = torch.cummin(live.int(), dim=0).values.bool()
    bounds = point_bound(each, chain)
    assert bool((bounds[1:] >= bounds[:-1] * (1 - 1e-12)).all())


def test_axes_of_uvw_are_derivatives() -> None:
    uvw = torch.tensor([3.0, -40.0, 7.0]).double()
    expected = torch.autograd.functional.jacobian(xyz_of_uvw, uvw)
    torch.testing.assert_close(axes_of_uvw(uvw.unsqueeze(0))[0], expected)
    torch.testing.assert_close(uvw_from_xyz(xyz_of_uvw(uvw)), uvw)


def test_widening_of_showers_is_one_without_dead_sensors() -> None:
    none = torch.zeros(4, N_CHANNELS, dtype=torch.bool)
    torch.testing.assert_close(shower_widening(LAPLACE, EVENTS, none), torch.ones(6).double())
    half = torch.rand(4, N_CHANNELS, generator=torch.Generator().manual_seed(1)) < 0.5
    assert bool((shower_widening(LAPLACE, EVENTS, half)[:4] > 1.01).all())


def test_variance_of_readings_matters() -> None:
    quiet = dataclasses.replace(LAPLACE, readings=ReadingModel(POISSON))
    noisy = dataclasses.replace(LAPLACE, readings=ReadingModel(ElectronicsConfig(pedestal=5.0)))
    found = [part.optimum(JACOBIAN, EVENTS, EVENTS.live).gamma for part in (quiet, noisy)]
    assert bool((found[0] <= found[1]).all())
