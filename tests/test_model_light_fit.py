"""The fit of a few sources inside the graph: known sources, dead sensors, darkness, symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from xec.detector.channels import N_CHANNELS
from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import parametric
from xec.models.frontend import NeighbourMean
from xec.models.light_fit import Fit, LightFit, _to_uvw
from xec.models.light_map import LightMap
from xec.models.moments import xyz_of_uvw

CONTEXT = 5


def light_fit(steps: int = 3) -> LightFit:
    torch.manual_seed(3)
    return LightFit(LightMap(parametric()), CONTEXT, hidden=16, steps=steps).eval()


def light_of(uvw: list[list[float]], photons: float = 2e6) -> Tensor:
    """Light (1, N) of equally strong sources."""
    found = LightMap(parametric())
    xyz = xyz_of_uvw(torch.tensor(uvw)).unsqueeze(0)
    with torch.no_grad():
        return photons / len(uvw) * found(xyz, found.all_sensors()).sum(1)


@torch.no_grad()
def fit(network: LightFit, light: Tensor, uv: list[float], valid: Tensor | None = None) -> Fit:
    valid = torch.ones_like(light) if valid is None else valid
    visible = torch.where(valid > 0, light, 0.0)
    brightness = NeighbourMean(parametric())(visible, valid)
    context = torch.zeros(len(light), CONTEXT)
    found: Fit = network(visible, valid, brightness, torch.tensor([uv]), context)
    return found


def misfit(found: Fit, light: Tensor) -> float:
    return float((found.light - light).square().sum() / light.square().sum())


def test_untrained_steps_go_uphill() -> None:
    """The Newton steps alone, before any training, bring the light nearer with every step."""
    light = light_of([[4.0, 10.0, 2.0], [5.0, 11.5, 5.0]])
    errors = [misfit(fit(light_fit(n), light, [4.3, 10.5]), light) for n in (1, 3, 8)]
    assert errors[0] > 2.0 * errors[1] > 4.0 * errors[2]


def test_total_light_is_found_with_dead_sensors_in_front() -> None:
    light = light_of([[4.0, 10.0, 3.0], [5.0, 11.0, 6.0]])
    place = uvw_from_xyz(parametric().position)
    near = np.hypot(place[:, 0] - 4.0, place[:, 1] - 10.0) < 2.5
    dead = torch.from_numpy(near & (np.arange(N_CHANNELS) < 4092))
    assert 5 < int(dead.sum()) < 20
    valid = torch.where(dead, 0.0, 1.0).unsqueeze(0)
    found = fit(light_fit(8), light, [4.3, 10.3], valid)
    hidden = light[0, dead]
    average = NeighbourMean(parametric())(light * valid, valid)[0, dead]
    error = (found.light[0, dead] - hidden).square().mean().sqrt()
    assert error < 0.5 * (average - hidden).square().mean().sqrt()


@pytest.mark.parametrize("stored", [1e6, -1e3])
def test_dead_sensors_are_not_read(stored: float) -> None:
    light = light_of([[0.0, 0.0, 4.0]])
    valid = (torch.arange(N_CHANNELS) % 7 != 0).float().unsqueeze(0)
    network = light_fit()
    brightness = NeighbourMean(parametric())(light * valid, valid)
    context, uv = torch.zeros(1, CONTEXT), torch.zeros(1, 2)
    with torch.no_grad():
        plain = network(light * valid, valid, brightness, uv, context)
        other = network(torch.where(valid > 0, light, stored), valid, brightness, uv, context)
    assert torch.equal(plain.light, other.light)


def test_darkness_stays_finite_and_dim() -> None:
    dark = fit(light_fit(), torch.zeros(1, N_CHANNELS), [0.0, 0.0])
    for value in (dark.light, dark.features, *dark.sources):
        assert torch.isfinite(value).all()
    assert dark.light.max() < 30.0


def test_the_dimmest_chosen_sensors_do_not_count() -> None:
    """Which of two equally bright sensors comes last must not matter: rounding would decide."""
    network = light_fit()
    light = light_of([[4.0, 10.0, 3.0]])
    seen = network._choose(light, torch.ones_like(light), light)
    assert seen.weight[0, 0, -1] == 0.0
    assert seen.weight[0, 0, 0] == 1.0
    assert (seen.weight[0, 0].diff() <= 0).all()


def test_steps_along_u_v_w_are_steps_in_space() -> None:
    uvw = torch.tensor([[[3.0, -40.0, 6.0], [-9.0, 25.0, 1.0]]], dtype=torch.float64)
    step = torch.tensor([[[1e-4, 2e-4, -3e-4], [2e-4, -1e-4, 1e-4]]], dtype=torch.float64)
    local = _to_uvw(step, uvw)
    reff = 64.97
    # v is an arc at the inner face: a step across the depth w is longer by (w + Reff) / Reff.
    local[..., 1] *= reff / (reff + uvw[..., 2])
    moved = xyz_of_uvw((uvw + local).flatten(0, 1)) - xyz_of_uvw(uvw.flatten(0, 1))
    assert torch.allclose(moved, step.flatten(0, 1), atol=1e-7)
