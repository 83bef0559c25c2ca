"""From standard normals to deposits: the simulation's own events, differentiable."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from xec.detector.geometry import parametric
from xec.optimum.events import FRONT_ASIDE, FRONT_DEPTH, EventSource
from xec.optimum.laplace import Laplace
from xec.optimum.latent import LatentModel
from xec.optimum.lightmap import LightMap
from xec.simulation.generator import Generator, SimulationConfig
from xec.simulation.shower import ShowerConfig, draw_deposits, inside_xenon
from xec.simulation.vertex import SourceConfig, draw_gammas, uvw_from_xyz

GEOMETRY = parametric()
CONFIG = SimulationConfig()
WIDE = SourceConfig(energy=(12.0, 62.0))
MODEL = LatentModel(WIDE)
N = 400


def _normals(uniform: torch.Tensor) -> torch.Tensor:
    return torch.special.ndtri(uniform.double().clamp(1e-9, 1 - 1e-9))


def _latents_of_the_simulation(n: int, seed: int) -> torch.Tensor:
    """The random numbers that `draw_gammas` and `draw_deposits` would take, as normals."""
    rng = torch.Generator().manual_seed(seed)
    D = ShowerConfig().deposits
    energy = torch.rand(n, generator=rng)
    vertex = torch.randn(n, 2, generator=rng)
    entry = [torch.rand(n, generator=rng) for _ in range(2)]
    path = torch.rand(n, generator=rng)
    random = torch.rand(2, n, D, generator=rng)
    normal = torch.randn(n, D, 3, generator=rng)
    stretch = torch.randn(n, 1, generator=rng)
    flat = [_normals(part).unsqueeze(1) for part in (energy, *entry, path)]
    return torch.cat(
        [
            flat[0],
            vertex.double(),
            *flat[1:],
            _normals(random[0, :, :-1]),
            _normals(random[0, :, -1:]),
            _normals(random[1]),
            normal.flatten(1).double(),
            stretch.double(),
        ],
        dim=1,
    )


def test_the_same_random_numbers_make_the_same_deposits() -> None:
    z = _latents_of_the_simulation(N, 7)
    rng = torch.Generator().manual_seed(7)
    gammas = draw_gammas(N, WIDE, rng)
    deposits = draw_deposits(gammas, ShowerConfig(), rng)
    mine = MODEL.gammas(z)
    close = {"rtol": 1e-4, "atol": 1e-3, "check_dtype": False}
    for name in ("energy", "vertex", "direction", "xyz"):
        torch.testing.assert_close(getattr(mine, name), getattr(gammas, name), **close)
    made = MODEL.deposits(z, mine)
    for name in ("xyz", "energy", "delay"):
        torch.testing.assert_close(getattr(made, name), getattr(deposits, name), **close)


def test_events_are_distributed_as_the_simulations() -> None:
    mine = EventSource(LatentModel(), CONFIG, GEOMETRY, 3).draw(N).batch
    other = Generator(CONFIG, GEOMETRY, "cpu", 4).sample(N)
    for quantity in (
        lambda b: b.uvw[:, 0],
        lambda b: b.uvw[:, 2],
        lambda b: b.angle[:, 1],
        lambda b: b.light.sum(1),
        lambda b: b.light.amax(1),
        lambda b: (b.npho * b.npho_valid).sum(1),
        lambda b: b.time.amax(1),
        lambda b: b.dead.sum(1),
        lambda b: b.gamma_time,
    ):
        samples = [quantity(batch).double().numpy() for batch in (mine, other)]
        assert ks_2samp(*samples).pvalue > 1e-3


def test_the_comparison_would_see_another_shower() -> None:
    short = LatentModel(shower=ShowerConfig(mean_offset=3.0))
    mine = EventSource(short, CONFIG, GEOMETRY, 3).draw(N).batch
    other = Generator(CONFIG, GEOMETRY, "cpu", 4).sample(N)
    samples = [batch.light.amax(1).numpy() for batch in (mine, other)]
    assert ks_2samp(*samples).pvalue < 1e-3


def test_light_of_the_batch_is_that_of_its_latents() -> None:
    events = EventSource(MODEL, CONFIG, GEOMETRY, 5).draw(8)
    deposits = MODEL.deposits(events.z, MODEL.gammas(events.z))
    light = LightMap(CONFIG.optics, GEOMETRY).light(deposits.xyz, deposits.energy)
    assert float(((light - events.batch.light).abs() / (light + 1)).max()) < 1e-4


def test_jacobians_are_differences() -> None:
    laplace = Laplace(MODEL, LightMap(CONFIG.optics, GEOMETRY))
    z = MODEL.draw(3, torch.Generator().manual_seed(2))
    jacobian = laplace.jacobians(z, times=True)
    assert jacobian.of_time is not None
    step = 1e-6
    for k in (0, 1, 3, 5, 8, 15, 18, 30, 55, 56):
        move = torch.zeros_like(z)
        move[:, k] = step
        ends = [laplace.jacobians(z + sign * move, times=False).light for sign in (1, -1)]
        rise = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(jacobian.of_light[..., k], rise, rtol=1e-4, atol=1e-3)
        gammas = [uvw_from_xyz(MODEL.gammas(z + sign * move).xyz) for sign in (1, -1)]
        rise = (gammas[0] - gammas[1]) / (2 * step)
        torch.testing.assert_close(jacobian.of_gamma[:, 1:4, k], rise, rtol=1e-4, atol=1e-6)


def test_margins_tell_inside_from_outside() -> None:
    z = MODEL.draw(2000, torch.Generator().manual_seed(6))
    deposits = MODEL.deposits(z, MODEL.gammas(z))
    inside = MODEL.margins(z) > 0
    assert 0.001 < float((~inside).double().mean()) < 0.2
    assert torch.equal(inside, deposits.energy > 0)
    assert bool(inside_xenon(deposits.xyz[inside], ShowerConfig()).all())


def test_at_energy_changes_the_energy_alone() -> None:
    z = MODEL.draw(20, torch.Generator().manual_seed(6))
    before, after = MODEL.gammas(z), MODEL.gammas(MODEL.at_energy(z, 52.8))
    np.testing.assert_allclose(after.energy.numpy(), 52.8, rtol=1e-6)
    torch.testing.assert_close(before.xyz, after.xyz)


def test_events_in_front_are_in_front() -> None:
    source = EventSource(LatentModel(), CONFIG, GEOMETRY, 8)
    events, front = source.draw_in_front(30)
    assert front.sum(1).tolist() == [1] * 30
    assert bool((events.batch.dead | ~front).all())
    sensor = torch.tensor(GEOMETRY.position[front.int().argmax(1).numpy()])
    uvw, own = events.batch.uvw.double(), uvw_from_xyz(sensor)
    assert float((uvw - own)[:, :2].abs().max()) < FRONT_ASIDE
    assert 0 < float(uvw[:, 2].min()) <= float(uvw[:, 2].max()) < FRONT_DEPTH
    region = source.front_region(front)
    assert bool((region(events.z) > 0).all())
    other = LatentModel().draw(30, torch.Generator().manual_seed(1))
    assert not bool((region(other) > 0).all(-1).any())


@pytest.mark.parametrize("rows", [slice(2, 5), torch.tensor([0, 4])])
def test_events_can_be_chosen(rows: slice | torch.Tensor) -> None:
    events = EventSource(MODEL, CONFIG, GEOMETRY, 5).draw(6)
    some = events[rows]
    torch.testing.assert_close(some.batch.npho, events.batch.npho[rows])
    torch.testing.assert_close(some.z, events.z[rows])
    assert torch.equal(some.live, events.live[rows])
