"""The faithful loss, its identities, and the clipping that keeps it faithful."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xec_training.losses import Term, faithful, spread_likelihood, squared_error
from xec_training.optimiser import clip_separately, is_spread

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def sample() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    draw = torch.randn(3, 64, generator=generator, dtype=torch.float64)
    return draw[0].requires_grad_(), draw[1].requires_grad_(), draw[2]


def ours(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    return faithful(mean, log_sigma, target, torch.ones_like(target))


def mean_squared(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (mean - target).square().mean() + 0.0 * log_sigma.sum()


def likelihood(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    """Torch's own Gaussian likelihood."""
    return nn.functional.gaussian_nll_loss(mean, target, (2.0 * log_sigma).exp(), eps=0.0)


def specification(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    """The specification's formula: the squared error divided by the stopped variance."""
    variance = (2.0 * log_sigma).exp()
    centre = 0.5 * (target - mean).square() / variance.detach()
    spread = 0.5 * (2.0 * log_sigma + (target - mean.detach()).square() / variance)
    return (centre + spread).mean()


def gradients(loss: Loss) -> tuple[Tensor, Tensor]:
    mean, log_sigma, target = sample()
    first, second = torch.autograd.grad(loss(mean, log_sigma, target), (mean, log_sigma))
    return first, second


def test_the_mean_learns_as_with_a_squared_error() -> None:
    assert torch.allclose(gradients(ours)[0], gradients(mean_squared)[0], atol=1e-15)


def test_the_spread_learns_as_with_the_likelihood() -> None:
    assert torch.allclose(gradients(ours)[1], gradients(likelihood)[1], atol=1e-12)


def test_the_specifications_formula_is_the_likelihood_and_not_faithful() -> None:
    """Negative control: its gradients are those of the plain likelihood, for both."""
    for ours_, theirs in zip(gradients(specification), gradients(likelihood), strict=True):
        assert torch.allclose(ours_, theirs, atol=1e-12)
    assert not torch.allclose(gradients(specification)[0], gradients(mean_squared)[0], rtol=0.1)


def test_weights_count_in_sum_and_divisor() -> None:
    mean, log_sigma, target = sample()
    weight = (torch.arange(64) % 3 == 0).double()
    kept = weight.bool()
    whole = faithful(mean, log_sigma, target, weight)
    part = faithful(mean[kept], log_sigma[kept], target[kept], torch.ones(int(kept.sum())))
    assert whole.item() == pytest.approx(part.item(), rel=1e-12)


def test_nothing_to_learn_gives_zero_not_nan() -> None:
    mean, log_sigma, target = sample()
    loss = faithful(mean, log_sigma, target, torch.zeros(64))
    loss.backward()
    assert loss.item() == 0.0
    assert mean.grad is not None
    assert not mean.grad.any()


def test_sums_over_parts_equal_the_whole() -> None:
    mean, log_sigma, target = sample()
    weight = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for loss in (
        lambda s: squared_error(mean[s], target[s], weight[s]),
        lambda s: spread_likelihood(mean[s], log_sigma[s], target[s], weight[s]),
    ):
        whole, first, rest = loss(slice(0, 64)), loss(slice(0, 20)), loss(slice(20, 64))
        joined = Term(first.total + rest.total, first.weight + rest.weight)
        assert joined.mean().item() == pytest.approx(whole.mean().item(), rel=1e-12)


class Pair(nn.Module):
    """A trunk with a mean, and a spread head on detached features."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 16)
        self.mean = nn.Linear(16, 1)
        self.head = nn.ModuleDict({"spread": nn.Linear(16, 1)})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.trunk(x))
        return self.mean(h), self.head["spread"](h.detach())


def _train(loss: Loss, clip: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    torch.manual_seed(11)
    model = Pair().double()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
    x = torch.randn(256, 3, dtype=torch.float64)
    y = x[:, :1].sin() + x[:, 1:2] * torch.randn(256, 1, dtype=torch.float64)
    for _ in range(30):
        optimiser.zero_grad()
        mean, log_sigma = model(x)
        loss(mean, log_sigma, y).backward()
        clip(model)
        optimiser.step()
    return {n: p.detach() for n, p in model.named_parameters() if not is_spread(n)}


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_training_with_spread_leaves_the_mean_path_bit_identical() -> None:
    def clip(model: nn.Module) -> object:
        return clip_separately(model.named_parameters(), 0.05)

    assert _same(_train(ours, clip), _train(mean_squared, clip))


def test_one_clip_over_both_paths_breaks_faithfulness() -> None:
    """Negative control of the test above (METHODS L4)."""

    def clip(model: nn.Module) -> object:
        return nn.utils.clip_grad_norm_(model.parameters(), 0.05)

    assert not _same(_train(ours, clip), _train(mean_squared, clip))
