"""The differentiable light map: the simulation's own light and times, and honest derivatives."""

import pytest
import torch

from xec.detector.geometry import parametric
from xec.optimum.arrival import arrival_slopes, time_information
from xec.optimum.lightmap import LightMap
from xec.simulation.optics import Illumination, Optics, OpticsConfig
from xec.simulation.shower import Deposits, ShowerConfig, draw_deposits
from xec.simulation.vertex import SourceConfig, draw_gammas

GEOMETRY = parametric()
CONFIG = OpticsConfig()
MAP = LightMap(CONFIG, GEOMETRY)
STEP = 1e-5


def _showers(n: int, seed: int = 4) -> Deposits:
    rng = torch.Generator().manual_seed(seed)
    deposits = draw_deposits(draw_gammas(n, SourceConfig(), rng), ShowerConfig(), rng)
    return Deposits(deposits.xyz.double(), deposits.energy.double(), deposits.delay.double())


def _simulated(deposits: Deposits) -> Illumination:
    single = (deposits.xyz.float(), deposits.energy.float(), deposits.delay.float())
    return Optics(CONFIG, GEOMETRY, "cpu").illuminate(Deposits(*single))


def _difference(light: torch.Tensor, other: torch.Tensor) -> float:
    return float(((light - other).abs() / (other + 1.0)).max())


def test_the_light_is_that_of_the_simulation() -> None:
    deposits = _showers(100)
    light = MAP.light(deposits.xyz, deposits.energy)
    assert _difference(light, _simulated(deposits).light.double()) < 2e-4


def test_other_deposits_would_be_noticed() -> None:
    deposits = _showers(10)
    moved = MAP.light(deposits.xyz + 3e-3, deposits.energy)
    assert _difference(moved, _simulated(deposits).light.double()) > 1e-3


def test_float32_serves_the_chains() -> None:
    deposits = _showers(20)
    light = LightMap(CONFIG, GEOMETRY, torch.float32).light(deposits.xyz, deposits.energy)
    assert _difference(light.double(), MAP.light(deposits.xyz, deposits.energy)) < 1e-3


def test_slopes_are_the_differences_of_the_light() -> None:
    deposits = _showers(4)
    xyz, energy = deposits.xyz, deposits.energy
    slopes = MAP.slopes(xyz, energy)
    torch.testing.assert_close(slopes.light, MAP.light(xyz, energy))
    for deposit in (0, 4, 9):
        for axis in range(3):
            step = torch.zeros_like(xyz)
            step[:, deposit, axis] = STEP
            rise = (MAP.light(xyz + step, energy) - MAP.light(xyz - step, energy)) / (2 * STEP)
            torch.testing.assert_close(slopes.place[:, deposit, axis], rise, rtol=1e-5, atol=1e-3)
        more = torch.zeros_like(energy)
        more[:, deposit] = STEP
        rise = (MAP.light(xyz, energy + more) - MAP.light(xyz, energy - more)) / (2 * STEP)
        torch.testing.assert_close(slopes.energy[:, deposit], rise, rtol=1e-5, atol=1e-3)


def test_the_gradient_sums_the_slopes() -> None:
    deposits = _showers(6)
    xyz, energy = deposits.xyz.requires_grad_(), deposits.energy.requires_grad_()
    light = MAP.light(xyz, energy)
    weight = torch.randn(light.shape, generator=torch.Generator().manual_seed(1)).double()
    of_place, of_energy = torch.autograd.grad((light * weight).sum(), (xyz, energy))
    slopes = MAP.slopes(xyz.detach(), energy.detach())
    torch.testing.assert_close(of_place, (slopes.place @ weight[:, None, :, None]).squeeze(-1))
    torch.testing.assert_close(of_energy, (slopes.energy @ weight.unsqueeze(-1)).squeeze(-1))


def test_arrival_is_that_of_the_simulation() -> None:
    deposits = _showers(20)
    arrival = arrival_slopes(MAP, deposits).time
    assert float((arrival - _simulated(deposits).arrival).abs().max()) < 1e-4


def test_slopes_of_the_arrival_are_its_differences() -> None:
    deposits = _showers(3)
    slopes = arrival_slopes(MAP, deposits)

    def rise(place: torch.Tensor, energy: torch.Tensor, delay: torch.Tensor) -> torch.Tensor:
        ends = [
            arrival_slopes(
                MAP,
                Deposits(
                    deposits.xyz + sign * place,
                    deposits.energy + sign * energy,
                    deposits.delay + sign * delay,
                ),
            ).time
            for sign in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * STEP)

    nothing = torch.zeros_like(deposits.energy)
    for deposit in (1, 9):
        one = nothing.clone()
        one[:, deposit] = STEP
        still = torch.zeros_like(deposits.xyz)
        for axis in range(3):
            step = still.clone()
            step[:, deposit, axis] = STEP
            expected = rise(step, nothing, nothing)
            torch.testing.assert_close(
                slopes.place[:, deposit, axis], expected, rtol=1e-5, atol=1e-7
            )
        for found, expected in (
            (slopes.energy, rise(still, one, nothing)),
            (slopes.delay, rise(still, nothing, one)),
        ):
            torch.testing.assert_close(found[:, deposit], expected, rtol=1e-5, atol=1e-7)


def test_times_say_nothing_about_their_common_zero() -> None:
    weight = torch.tensor([[4.0, 1.0, 0.0]]).double()
    shift = torch.ones(1, 3, 1).double()
    assert float(time_information(shift, weight).abs().max()) < 1e-12
    # Two sensors: the information of their difference, 1 / (1/4 + 1/1).
    apart = torch.tensor([[[1.0], [0.0], [5.0]]]).double()
    assert float(time_information(apart, weight)) == pytest.approx(0.8)
