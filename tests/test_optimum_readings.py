"""The likelihood of readings: its score, special cases, and the simulation's electronics."""

import torch
from scipy.stats import poisson

from xec.detector.channels import IS_MPPC, N_CHANNELS
from xec.optimum.readings import ReadingModel
from xec.simulation.electronics import Electronics, ElectronicsConfig
from xec.simulation.optics import Illumination

MODEL = ReadingModel()
EFFICIENCY = torch.tensor([0.06, 0.2])


def _light(n: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    return (8 * torch.rand(n, N_CHANNELS, generator=rng).double() - 3).exp()


def test_the_score_is_residual_over_variance() -> None:
    light = _light().requires_grad_()
    npho = light.detach() * 1.2 - 0.7
    live = torch.rand(light.shape, generator=torch.Generator().manual_seed(1)) < 0.9
    for model in (MODEL, ReadingModel(ElectronicsConfig(gain_spread=0.0))):
        likelihood = model.log_likelihood(npho, live, light, EFFICIENCY)
        (score,) = torch.autograd.grad(likelihood.sum(), light)
        expected = live * (npho - light.detach()) / model.variance(light.detach(), EFFICIENCY)
        torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-12)


def test_without_other_noise_it_is_poissons() -> None:
    bare = ElectronicsConfig(
        mppc_excess_noise=1.0, pmt_excess_noise=1.0, pedestal=0.0, gain_spread=0.0, pmt_qe=1.0
    )
    model = ReadingModel(bare)
    live = torch.zeros(1, N_CHANNELS, dtype=torch.bool)
    live[0, 5] = True
    npho = torch.full((1, N_CHANNELS), 7.0).double()

    def value(mean: float) -> float:
        light = torch.full((1, N_CHANNELS), mean).double()
        return float(model.log_likelihood(npho, live, light, torch.ones(1)))

    expected = poisson.logpmf(7, 3.0) - poisson.logpmf(7, 9.0)
    assert abs(value(3.0) - value(9.0) - expected) < 1e-9


def test_the_variance_is_that_of_the_electronics() -> None:
    # One bright and one dim light on all sensors, many readings, gains drawn anew.
    rng = torch.Generator().manual_seed(2)
    electronics = Electronics(ElectronicsConfig(), "cpu")
    for mean in (4.0, 5000.0):
        light = torch.full((100, N_CHANNELS), mean)
        gain = 1.0 + 0.015 * torch.randn(light.shape, generator=rng)
        efficiency = torch.full((100,), 0.1)
        npho = electronics.read(Illumination(light, light), efficiency, gain, rng).npho
        expected = MODEL.variance(light[:1].double(), efficiency[:1])[0]
        for kind in (torch.from_numpy(IS_MPPC.copy()), torch.from_numpy(~IS_MPPC)):
            spread = float(npho[:, kind].double().var())
            assert abs(spread / float(expected[kind][0]) - 1.0) < 0.03


def test_score_has_mean_zero_and_information_one_over_variance() -> None:
    rng = torch.Generator().manual_seed(4)
    electronics = Electronics(ElectronicsConfig(gain_spread=0.0), "cpu")
    model = ReadingModel(ElectronicsConfig(gain_spread=0.0))
    light = torch.full((200, N_CHANNELS), 10.0)
    efficiency = torch.full((200,), 0.1)  # one photoelectron: a Gaussian would not do
    npho = electronics.read(Illumination(light, light), efficiency, torch.ones(1), rng).npho
    mppc = torch.from_numpy(IS_MPPC.copy())
    variance = model.variance(light[:1].double(), efficiency[:1])[0, 0]
    score = (npho[:, mppc].double() - 10.0) / variance
    pull = float(score.mean() / score.std() * score.numel() ** 0.5)
    assert abs(pull) < 4
    assert abs(float(score.var() * variance) - 1.0) < 0.02
    # The score of a Gaussian with this variance claims more information than the data hold.
    slope = 1.3 / 0.1
    claimed = 1.0 + slope**2 / (2.0 * float(variance))
    assert claimed > 1.5
