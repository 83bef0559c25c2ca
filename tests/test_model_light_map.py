"""Light of point sources in the graph: against exact solid angles, slopes and the simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.detector.coordinates import xyz_from_uvw
from xec.detector.geometry import parametric
from xec.detector.solid_angle import fractions
from xec.models.light_map import LightMap
from xec.simulation.optics import Optics, OpticsConfig
from xec.simulation.shower import Deposits

PLACES = np.array([[3.0, -20.0, 15.0], [-18.0, 55.0, 6.0], [0.4, 0.7, 3.0]])


def light_map(attenuation: float = 0.0, scattered: float = 0.0) -> LightMap:
    found = LightMap(parametric()).double()
    with torch.no_grad():
        found.attenuation.fill_(attenuation)
        found.scattered.fill_(scattered)
    return found


def places() -> Tensor:
    """(3, 1, 3): one source in each of three events."""
    return torch.tensor(xyz_from_uvw(PLACES)).unsqueeze(1)


@torch.no_grad()
def test_clear_xenon_leaves_the_solid_angle() -> None:
    exact = fractions(parametric(), xyz_from_uvw(PLACES))
    found = light_map()
    share = found(places(), found.all_sensors())[:, 0].numpy()
    seen = exact > 1e-9
    assert np.abs(share[seen] / exact[seen] - 1.0).max() < 0.01


@torch.no_grad()
@pytest.mark.parametrize("rayleigh", [37.0, 60.0])
def test_the_light_is_that_of_the_simulation(rayleigh: float) -> None:
    """One deposit of 1 MeV, of which 40 000 photons times the collection are counted."""
    config = OpticsConfig(rayleigh_length=rayleigh)
    optics = Optics(config, parametric(), "cpu")
    one = torch.ones(len(PLACES), 1)
    simulated = optics.illuminate(Deposits(places().float(), one, 0.0 * one)).light
    scattered = 4.0 * np.pi * (np.pi / 16.0) / rayleigh
    found = light_map(1.0 / 120.0 + 1.0 / rayleigh, scattered)
    light = found(places(), found.all_sensors())[:, 0] * config.light_yield * config.collection
    bright = simulated > 1.0
    assert bright.sum() > 500
    assert (light[bright] / simulated[bright] - 1.0).abs().max() < 0.02


def test_slopes_are_those_of_the_direct_light() -> None:
    """Against autograd, for sensors far enough that their size does not matter."""
    found = light_map(attenuation=0.03)
    xyz = places().requires_grad_()
    inner = torch.arange(0, N_MPPC, 97).expand(len(PLACES), -1)
    sensors = found.chosen(inner)
    share = found.with_slope(xyz, sensors)
    for column in range(0, inner.shape[1], 7):
        light = share.share[:, 0, column]
        seen = light > 0  # the others look away from the source
        (exact,) = torch.autograd.grad(light[seen].log().sum(), xyz, retain_graph=True)
        slope = torch.stack([axis[:, 0, column] for axis in share.slope], dim=1)
        assert torch.allclose(slope[seen], exact[seen, 0], rtol=0.05, atol=0.01)


@torch.no_grad()
def test_chosen_sensors_are_those_of_all() -> None:
    found = light_map(0.03, 0.06)
    channel = torch.tensor([[5, 4000, 4759], [0, 17, 4100], [9, 8, 7]])
    every = found(places(), found.all_sensors())
    some = found(places(), found.chosen(channel))
    assert torch.equal(some[:, 0], every[:, 0].gather(1, channel))


@torch.no_grad()
def test_sources_on_a_sensor_and_behind_all_of_them_are_finite() -> None:
    found = LightMap(parametric())
    xyz = torch.tensor(parametric().position[100], dtype=torch.float32).expand(1, 1, 3)
    share = found.with_slope(xyz, found.all_sensors())
    for value in (share.share, *share.slope):
        assert value.shape == (1, 1, N_CHANNELS)
        assert torch.isfinite(value).all()
