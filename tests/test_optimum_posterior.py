"""Chains of events: without readings the prior, with readings near the truth."""

import pytest
import torch

from xec.detector.channels import N_CHANNELS
from xec.detector.geometry import parametric
from xec.optimum.events import EventSource
from xec.optimum.hmc import HmcSettings
from xec.optimum.laplace import Laplace
from xec.optimum.latent import LatentModel
from xec.optimum.lightmap import LightMap
from xec.optimum.posterior import Posterior, PosteriorSampler
from xec.simulation.generator import SimulationConfig

GEOMETRY = parametric()
CONFIG = SimulationConfig()
MODEL = LatentModel()
LAPLACE = Laplace(MODEL, LightMap(CONFIG.optics, GEOMETRY))
FAST = LightMap(CONFIG.optics, GEOMETRY, torch.float32)
SOURCE = EventSource(MODEL, CONFIG, GEOMETRY, 21)
EVENTS = SOURCE.draw(4)


def _sampler(draws: int, leapfrog: int) -> PosteriorSampler:
    settings = HmcSettings(draws=draws, warm_up=9, leapfrog=leapfrog, step=0.2)
    return PosteriorSampler(LAPLACE, FAST, settings)


def _run(draws: int, asked: torch.Tensor, events=EVENTS) -> Posterior:
    return _sampler(draws, 6).run(events, asked, torch.Generator().manual_seed(1))


def test_posterior_is_about_the_truth() -> None:
    asked = EVENTS.batch.dead & EVENTS.batch.npho_valid
    found = _run(20, asked)
    truth = EVENTS.batch.light.double()[asked]
    jacobian = LAPLACE.jacobians(EVENTS.z)
    sigma = LAPLACE.optimum(jacobian, EVENTS, EVENTS.live).light[asked]
    assert len(found.mean) == int(asked.sum())
    assert torch.equal(found.channel, asked.nonzero()[:, 1])
    assert float(((found.mean - truth) / sigma).abs().median()) < 1.5
    assert 0.3 < float((found.variance.sqrt() / sigma).median()) < 2.0
    assert 0.3 < float(found.chains.accepted.mean()) < 1.0
    assert bool((found.absolute <= found.variance.sqrt() * 1.01).all())


class _Dim(LightMap):
    """The same little light everywhere: fast, for chains that read nothing."""

    def light(self, xyz: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
        return energy.sum(1, keepdim=True).expand(-1, N_CHANNELS) + 0 * xyz.sum((1, 2))[:, None]


def test_without_readings_the_prior_comes_back() -> None:
    events = SOURCE.draw(20)
    blind = events.with_dead(torch.ones(20, N_CHANNELS, dtype=torch.bool))
    settings = HmcSettings(draws=60, warm_up=0, leapfrog=5, step=0.35)
    sampler = PosteriorSampler(LAPLACE, _Dim(CONFIG.optics, GEOMETRY), settings)
    none = torch.zeros(20, N_CHANNELS, dtype=torch.bool)
    found = sampler.run(blind, none, torch.Generator().manual_seed(3))
    between = found.gamma_mean.var(0)
    width = (found.gamma_variance.mean(0) + between).sqrt()
    half_u, half_v = MODEL.source.half_u, MODEL.source.half_v
    assert float(width[1]) == pytest.approx(half_u / 3**0.5, rel=0.15)
    assert float(width[2]) == pytest.approx(half_v / 3**0.5, rel=0.15)


def test_a_region_is_not_left() -> None:
    events, front = SOURCE.draw_in_front(3)
    region = SOURCE.front_region(front)
    seen = []

    def watched(z: torch.Tensor) -> torch.Tensor:
        seen.append(z.detach())
        return region(z)

    found = _sampler(8, 4).run(events, front, torch.Generator().manual_seed(2), watched)
    assert len(seen) > 100
    assert bool((found.gamma_mean[:, 3] < 1.0).all())
    assert bool((found.gamma_mean[:, 3] > 0.0).all())


def test_a_live_sensor_is_not_asked_for() -> None:
    with pytest.raises(ValueError, match="live"):
        _run(1, EVENTS.live)
