"""The losses against closed forms, torch's own, and the identities that make one faithful."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.errors import UsageError
from xec.models.heads import bounded
from xec_training.losses import LossKind, LossName, elements, gaussian_nll
from xec_training.optimiser import clip_separately, is_spread

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
NAMES: tuple[LossName, ...] = get_args(LossName)


def sample() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    draw = torch.randn(3, 64, generator=generator, dtype=torch.float64)
    return draw[0].requires_grad_(), draw[1].requires_grad_(), draw[2]


def loss(kind: LossKind, unit: float = 1.0) -> Loss:
    """The mean of all elements; the known noise is 2."""

    def total(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
        noise = torch.full_like(target, 2.0)
        parts = elements(kind, mean, log_sigma, target, unit, noise)
        return sum(part.mean() for part in parts if part is not None)  # type: ignore[return-value]

    return total


def ours(name: LossName, unit: float = 1.0) -> Loss:
    return loss(LossKind(name), unit)


def mean_squared(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    return 0.5 * functional.mse_loss(mean, target) + 0.0 * log_sigma.sum()


def likelihood(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    """Torch's own Gaussian likelihood."""
    return functional.gaussian_nll_loss(mean, target, (2.0 * log_sigma).exp(), eps=0.0)


def specification(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    """The specification's `faithful_nll_loss`."""
    variance = (2.0 * log_sigma).exp()
    centre = 0.5 * (target - mean).square() / variance.detach()
    spread = 0.5 * (2.0 * log_sigma + (target - mean.detach()).square() / variance)
    return (centre + spread).mean()


def gradients(loss: Loss) -> tuple[Tensor, Tensor]:
    mean, log_sigma, target = sample()
    first, second = torch.autograd.grad(
        loss(mean, log_sigma, target), (mean, log_sigma), materialize_grads=True
    )
    return first, second


def close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-12, atol=1e-14)


def is_faithful(loss: Loss) -> bool:
    """METHODS L1: the mean learns as with a squared error, the spread as with the likelihood."""
    mean, spread = gradients(loss)
    return close(mean, gradients(mean_squared)[0]) and close(spread, gradients(likelihood)[1])


def test_only_the_faithful_loss_is_faithful() -> None:
    assert {name for name in NAMES if is_faithful(ours(name))} == {"faithful"}


def test_the_specifications_formula_is_the_likelihood_and_not_faithful() -> None:
    assert not is_faithful(specification)
    for name in ("split_nll", "nll"):
        for ours_, theirs, torchs in zip(
            gradients(ours(name)), gradients(specification), gradients(likelihood), strict=True
        ):
            assert close(ours_, torchs)
            assert close(theirs, torchs)
    assert close(ours("split_nll")(*sample()), specification(*sample()))


def test_the_likelihood_is_that_of_torch() -> None:
    mean, log_sigma, target = sample()
    assert close(ours("nll")(mean, log_sigma, target), likelihood(mean, log_sigma, target))
    density = torch.distributions.Normal(mean, log_sigma.exp()).log_prob(target)
    assert close(gaussian_nll(mean, log_sigma, target), -density)


def test_beta_goes_from_the_likelihood_to_a_squared_error() -> None:
    for ours_, theirs in zip(
        gradients(loss(LossKind("beta_nll", beta=0.0))), gradients(likelihood), strict=True
    ):
        assert close(ours_, theirs)
    halfway, full = (gradients(loss(LossKind("beta_nll", beta=b))) for b in (0.5, 1.0))
    assert close(full[0], gradients(mean_squared)[0])
    # In general the likelihood's own gradients, times the variance^beta.
    sigma = sample()[1].detach().exp()
    for ours_, theirs in zip(halfway, gradients(likelihood), strict=True):
        assert close(ours_, sigma * theirs)


@pytest.mark.parametrize("transition", [0.3, 1.0, 2.5])
def test_smooth_l1_is_transition_times_that_of_torch(transition: float) -> None:
    kind = LossKind("smooth_l1", transition=transition)
    mean, log_sigma, target = sample()
    expected = functional.smooth_l1_loss(mean, target, beta=transition, reduction="none")
    assert close(elements(kind, mean, log_sigma, target).centre, transition * expected)


def test_noise_aware_weighs_by_the_known_noise_and_not_by_the_learned() -> None:
    mean, log_sigma, target = sample()
    noise = torch.linspace(0.5, 3.0, 64, dtype=torch.float64).requires_grad_()
    parts = elements(LossKind("noise_aware"), mean, log_sigma, target, 5.0, noise)
    assert parts.spread is not None
    found = torch.autograd.grad(
        (parts.centre + parts.spread).sum(), (mean, log_sigma, noise), materialize_grads=True
    )
    assert close(found[0], ((mean - target) / noise).detach())
    assert close(found[1], 64 * gradients(likelihood)[1])
    assert not found[2].any()


def test_noise_aware_without_noise_is_refused() -> None:
    with pytest.raises(UsageError, match="noise_aware"):
        elements(LossKind("noise_aware"), *sample())


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_says_whether_it_trains_a_spread(name: LossName) -> None:
    assert bool(gradients(ours(name))[1].any()) == LossKind(name).trains_spread


@pytest.mark.parametrize("name", NAMES)
def test_other_units_of_everything_change_no_value(name: LossName) -> None:
    """Millimetres instead of centimetres: elements are pure numbers."""
    mean, log_sigma, target = sample()
    kind, noise = LossKind(name), torch.full_like(target, 2.0)
    first = elements(kind, mean, log_sigma, target, 0.3, noise)
    second = elements(kind, 10 * mean, log_sigma + math.log(10), 10 * target, 3.0, noise * 100)
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        assert one is None or close(one, other)


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("mse", 2),
        ("faithful", 2),
        ("nll", 0),
        ("split_nll", 0),
        ("noise_aware", 0),
        ("beta_nll", 1),  # 2 beta
    ],
)
def test_the_unit_weighs_the_means_gradient(name: LossName, power: int) -> None:
    plain, other = gradients(ours(name)), gradients(ours(name, unit=4.0))
    assert close(plain[0], other[0] * 4.0**power)
    if name != "beta_nll":
        assert close(plain[1], other[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_gradients_are_finite_at_extreme_raw_outputs(name: LossName, raw: float) -> None:
    """METHODS L6, through the bound of the heads."""
    mean, spread = torch.tensor([[raw], [raw]]).requires_grad_(), torch.tensor([[raw], [-raw]])
    spread.requires_grad_()
    value = loss(LossKind(name))(mean, bounded(spread), torch.zeros(2, 1))
    value.backward()
    assert value.isfinite()
    for leaf in (mean, spread):
        assert leaf.grad is None or leaf.grad.isfinite().all()


def test_without_the_bound_they_are_not() -> None:
    """Negative control of the test above."""
    spread = torch.full((1,), -1e4).requires_grad_()
    loss(LossKind("nll"))(torch.ones(1), spread, torch.zeros(1)).backward()
    assert spread.grad is not None
    assert not spread.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_under_autocast(name: LossName, dtype: torch.dtype) -> None:
    short = [x.detach().to(dtype) for x in sample()]
    noise = torch.full_like(short[2], 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = elements(LossKind(name), short[0], short[1], short[2], 0.01, noise)
        metric = gaussian_nll(*short)
    wide = elements(LossKind(name), *(x.double() for x in short), 0.01, noise.double())
    assert metric.dtype == torch.float32
    for part, expected in zip(found, wide, strict=True):
        if part is not None and expected is not None:
            assert part.dtype == torch.float32
            assert torch.allclose(part.double(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"name": "mae"}, "faithful"),
        ({"name": "beta_nll", "beta": -0.1}, "beta"),
        ({"name": "beta_nll", "beta": 1.1}, "beta"),
        ({"name": "beta_nll", "beta": math.nan}, "beta"),
        ({"name": "smooth_l1", "transition": 0.0}, "transition"),
        ({"name": "smooth_l1", "transition": math.inf}, "transition"),
    ],
)
def test_impossible_kinds_are_named(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        LossKind(**arguments)  # type: ignore[arg-type]


class Pair(nn.Module):
    """A trunk with a mean, and a spread head on the features or on a detached copy."""

    def __init__(self, detached: bool = True) -> None:
        super().__init__()
        self.detached = detached
        self.trunk = nn.Linear(3, 16)
        self.mean = nn.Linear(16, 1)
        self.head = nn.ModuleDict({"spread": nn.Linear(16, 1)})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.trunk(x))
        return self.mean(h), self.head["spread"](h.detach() if self.detached else h)


def problem() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(256, 3, dtype=torch.float64, generator=generator)
    noise = torch.randn(256, 1, dtype=torch.float64, generator=generator)
    return x, x[:, :1].sin() + x[:, 1:2] * noise


def parameter_gradients(model: nn.Module, loss: Loss) -> dict[str, Tensor]:
    x, y = problem()
    names, leaves = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss(*model(x), y), leaves, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def pair(detached: bool) -> nn.Module:
    torch.manual_seed(3)
    return Pair(detached).double()


@pytest.mark.parametrize("detached", [True, False])
def test_the_spread_leaves_nothing_on_detached_features(detached: bool) -> None:
    """METHODS L2; not detaching is the negative control."""

    def spread_alone(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
        spread = elements(LossKind("faithful"), mean, log_sigma, target).spread
        assert spread is not None
        return spread.mean()

    found = parameter_gradients(pair(detached), spread_alone)
    assert found["head.spread.weight"].any()
    assert not found["mean.weight"].any()
    assert bool(found["trunk.weight"].any()) is not detached


def test_beta_one_is_a_squared_error_at_the_head_and_not_at_a_shared_trunk() -> None:
    """METHODS L3."""
    beta_one = parameter_gradients(pair(False), loss(LossKind("beta_nll", beta=1.0)))
    squared = parameter_gradients(pair(False), mean_squared)
    assert close(beta_one["mean.weight"], squared["mean.weight"])
    assert not torch.allclose(beta_one["trunk.weight"], squared["trunk.weight"], rtol=0.1)


def _train(loss: Loss, clip: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    torch.manual_seed(11)
    model = Pair()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
    x, y = (tensor.float() for tensor in problem())
    for _ in range(30):
        optimiser.zero_grad()
        mean, log_sigma = model(x)
        loss(mean, log_sigma, y).backward()
        clip(model)
        optimiser.step()
    return {n: p.detach() for n, p in model.named_parameters() if not is_spread(n)}


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def _clip_apart(model: nn.Module) -> object:
    return clip_separately(model.named_parameters(), 0.05)


def test_training_with_spread_leaves_the_mean_path_bit_identical() -> None:
    """METHODS L4."""
    squared = _train(ours("mse"), _clip_apart)
    assert _same(_train(ours("faithful"), _clip_apart), squared)
    assert not _same(_train(ours("split_nll"), _clip_apart), squared)


def test_one_clip_over_both_paths_breaks_faithfulness() -> None:
    """Negative control of the test above."""

    def clip(model: nn.Module) -> object:
        return nn.utils.clip_grad_norm_(model.parameters(), 0.05)

    assert not _same(_train(ours("faithful"), clip), _train(ours("mse"), clip))
