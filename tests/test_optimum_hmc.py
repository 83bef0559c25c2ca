"""Chains: closed-form targets, walls, and what goes wrong without acceptance."""

import dataclasses

import pytest
import torch
from scipy.stats import norm

from xec.optimum.hmc import HmcSettings, effective_draws, run_chains

CHAINS = 400
SETTINGS = HmcSettings(draws=60, warm_up=21, leapfrog=6, step=0.5)


def _mass(size: int):
    return lambda points: torch.eye(size).double().expand(len(points[0]), -1, -1)


def _run(density, size: int, settings: HmcSettings, margins=None, start=None) -> torch.Tensor:
    kept = []
    start = torch.zeros(CHAINS, size).double() if start is None else start
    rng = torch.Generator().manual_seed(5)
    chains = run_chains(density, start, _mass(size), settings, rng, kept.append, margins)
    assert len(kept) == settings.draws
    assert float(chains.accepted.min()) >= 0
    return torch.stack(kept)


def _posterior():
    """A linear model with Gaussian noise: density, mean and covariance in closed form."""
    rng = torch.Generator().manual_seed(2)
    J = torch.randn(6, 3, generator=rng).double()
    x = torch.randn(6, generator=rng).double()
    covariance = torch.linalg.inv(torch.eye(3) + J.T @ J / 0.5)
    mean = covariance @ J.T @ x / 0.5

    def density(z: torch.Tensor):
        residual = x - z @ J.T
        value = -0.5 * z.square().sum(-1) - residual.square().sum(-1)
        return value, -z + 2.0 * residual @ J

    return density, mean, covariance


def test_a_gaussian_posterior_comes_out_in_closed_form() -> None:
    density, mean, covariance = _posterior()
    draws = _run(density, 3, SETTINGS).flatten(0, 1)
    sigma = covariance.diagonal().sqrt()
    assert float(((draws.mean(0) - mean) / sigma).abs().max()) < 0.05
    torch.testing.assert_close(torch.cov(draws.T), covariance, rtol=0.06, atol=0.005)


def test_coarse_steps_need_the_metropolis_test() -> None:
    density, _, covariance = _posterior()
    coarse = dataclasses.replace(SETTINGS, step=0.35, warm_up=0, draws=120)
    kept = _run(density, 3, coarse)[60:].flatten(0, 1).var(0)
    free = _run(density, 3, dataclasses.replace(coarse, metropolis=False))[60:].flatten(0, 1).var(0)
    exact = covariance.diagonal()
    assert float((kept / exact - 1).abs().max()) < 0.1
    assert not float((free / exact - 1).abs().max()) < 0.2


def _standard(z: torch.Tensor):
    return -0.5 * z.square().sum(-1), -z


def test_walls_reflect() -> None:
    # Nothing beyond zero: a half normal in the first coordinate.
    def density(z: torch.Tensor):
        value, gradient = _standard(z)
        return torch.where(z[:, 0] > 0, value, -torch.inf), gradient

    start = torch.full((CHAINS, 2), 0.5).double()
    draws = _run(density, 2, SETTINGS, lambda z: z[:, :1], start)[10:]
    assert float(draws[..., 0].min()) > 0
    assert float(draws[..., 0].mean()) == pytest.approx((2 / torch.pi) ** 0.5, rel=0.03)
    assert float(draws[..., 0].square().mean()) == pytest.approx(1.0, rel=0.05)
    assert float(draws[..., 1].var()) == pytest.approx(1.0, rel=0.05)


def test_jumps_are_crossed_in_the_right_proportion() -> None:
    # A slanted wall, beyond which the density is 5 times less.
    slope, place = torch.tensor([0.6, 0.8]).double(), 0.4

    def margins(z: torch.Tensor) -> torch.Tensor:
        return (place - z @ slope).unsqueeze(-1)

    def density(z: torch.Tensor):
        value, gradient = _standard(z)
        return value - torch.log(torch.tensor(5.0)) * (margins(z)[:, 0] < 0), gradient

    draws = _run(density, 2, dataclasses.replace(SETTINGS, draws=150), margins)[30:]
    beyond = float((margins(draws.flatten(0, 1)) < 0).double().mean())
    less = norm.sf(place) / 5
    assert beyond == pytest.approx(less / (less + norm.cdf(place)), rel=0.08)


def test_a_runaway_is_rejected() -> None:
    def density(z: torch.Tensor):
        steep = (z**4).exp()  # soon infinite
        return -steep.sum(-1), -4 * z**3 * steep

    def margins(z: torch.Tensor) -> torch.Tensor:
        assert bool(z.isfinite().all())
        return 5.0 - z.square()

    draws = _run(density, 1, dataclasses.replace(SETTINGS, step=3.0), margins)
    assert bool(draws.isfinite().all())
    assert float(draws.abs().max()) < 3.0


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_effective_draws_of_a_first_order_series(memory: float) -> None:
    T, K = 2000, 20
    noise = torch.randn(T, K, generator=torch.Generator().manual_seed(1)).double()
    series = [noise[0]]
    for step in noise[1:]:
        series.append(memory * series[-1] + (1 - memory**2) ** 0.5 * step)
    found = float(effective_draws(torch.stack(series)).mean())
    assert found == pytest.approx(T * (1 - memory) / (1 + memory), rel=0.15)


def test_a_constant_series_counts_once() -> None:
    assert effective_draws(torch.ones(50, 2)).tolist() == [1.0, 1.0]
