"""Optimisers against their published updates, parameter groups, and clipping of the two paths."""

from __future__ import annotations

import copy
import math
import sys
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from xec.errors import UsageError
from xec_training import schedule
from xec_training.optimiser import (
    OptimiserName,
    build_optimiser,
    clip_separately,
    evaluation_mode,
    is_spread,
    parameter_groups,
    training_mode,
)

BETAS = (0.9, 0.95)
EPS = 1e-8
RATES = [0.01, 0.02, 0.05, 0.05, 0.03, 0.01]
PACKAGES = {"dadapt_adam": "dadaptation", "schedule_free": "schedulefree"}


@pytest.fixture(params=get_args(OptimiserName))
def name(request: pytest.FixtureRequest) -> OptimiserName:
    """Every optimiser whose package is there."""
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param])
    return request.param  # type: ignore[no-any-return]


class Bowl(nn.Module):
    """A quadratic with a matrix, which decays, and a bias, which does not."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2).double()
        with torch.no_grad():
            self.encoder.weight.copy_(start * torch.arange(1.0, 7.0).reshape(2, 3))
            self.encoder.bias.copy_(start * torch.tensor([-1.0, 2.0]))

    def loss(self) -> Tensor:
        steep = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
        weight, bias = self.encoder.weight, self.encoder.bias
        return 0.5 * (steep * (weight - 0.5).square()).sum() + 0.5 * (bias + 0.2).square().sum()


def optimiser_of(
    model: Bowl, name: OptimiserName, lr: float, scale: float = 1.0, decay: float = 0.1
) -> torch.optim.Optimizer:
    scales = {"encoder.bias": scale}
    return build_optimiser(name, parameter_groups(model.named_parameters(), decay, scales), lr)


def step(model: Bowl, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    model.loss().backward()
    optimiser.step()


def values(model: Bowl) -> list[Tensor]:
    return [p.detach().clone() for p in (model.encoder.weight, model.encoder.bias)]


def gradients(at: list[Tensor]) -> list[Tensor]:
    """Of the quadratic, by hand."""
    steep = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)
    return [steep * (at[0] - 0.5), at[1] + 0.2]


def close(first: list[Tensor], second: list[Tensor], rtol: float = 1e-10) -> bool:
    return all(torch.allclose(a, b, rtol=rtol) for a, b in zip(first, second, strict=True))


def test_groups_are_by_decay_and_by_the_longest_prefix() -> None:
    model = nn.ModuleDict(
        {
            "encoder": nn.ModuleDict({"stem": nn.Linear(2, 2), "stems": nn.Conv2d(1, 1, 3)}),
            "head": nn.LayerNorm(2),
        }
    )
    scales = {"encoder": 0.1, "encoder.stem": 0.01}
    groups = parameter_groups(model.named_parameters(), 0.02, scales)
    found = {
        id(p): (group["weight_decay"], group["lr_scale"])
        for group in groups
        for p in group["params"]
    }
    by_name = {name: found[id(p)] for name, p in model.named_parameters()}
    assert by_name == {
        "encoder.stem.weight": (0.02, 0.01),
        "encoder.stem.bias": (0.0, 0.01),
        "encoder.stems.weight": (0.02, 0.1),
        "encoder.stems.bias": (0.0, 0.1),
        "head.weight": (0.0, 1.0),
        "head.bias": (0.0, 1.0),
    }
    assert len(groups) == len(set(found.values()))


def test_a_prefix_of_nothing_is_named() -> None:
    with pytest.raises(UsageError, match="encodr"):
        parameter_groups(Bowl().named_parameters(), 0.0, {"encodr": 0.1})


def test_adamw_is_the_published_update() -> None:
    model = Bowl()
    optimiser = optimiser_of(model, "adamw", 0.01, scale=0.5)
    x, m, v = values(model), [0.0, 0.0], [0.0, 0.0]
    for t, rate in enumerate(RATES, start=1):
        schedule.apply(optimiser, rate)
        step(model, optimiser)
        for i, gradient in enumerate(gradients(x)):
            lr, decay = (rate, 0.1) if i == 0 else (0.5 * rate, 0.0)
            m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * gradient
            v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * gradient.square()
            root = (v[i] / (1 - BETAS[1] ** t)).sqrt() + EPS
            x[i] = x[i] - lr * (m[i] / (1 - BETAS[0] ** t) / root + decay * x[i])
        assert close(values(model), x), t


def test_schedule_free_is_the_published_update() -> None:
    """Defazio et al. 2024, algorithm 1, with the weights' average x kept for itself."""
    pytest.importorskip("schedulefree")
    model = Bowl()
    optimiser = optimiser_of(model, "schedule_free", 0.01, scale=0.5)
    training_mode(optimiser)
    x = values(model)
    z, v, weights, highest = list(x), [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for t, rate in enumerate(RATES, start=1):
        schedule.apply(optimiser, rate)
        step(model, optimiser)
        y = [(1 - BETAS[0]) * z_ + BETAS[0] * x_ for z_, x_ in zip(z, x, strict=True)]
        for i, gradient in enumerate(gradients(y)):
            lr, decay = (rate, 0.1) if i == 0 else (0.5 * rate, 0.0)
            v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * gradient.square()
            root = (v[i] / (1 - BETAS[1] ** t)).sqrt() + EPS
            z[i] = z[i] - lr * (gradient / root + decay * y[i])
            highest[i] = max(highest[i], lr)
            weights[i] += highest[i] ** 2
            c = highest[i] ** 2 / weights[i]
            x[i] = (1 - c) * x[i] + c * z[i]
        y = [(1 - BETAS[0]) * z_ + BETAS[0] * x_ for z_, x_ in zip(z, x, strict=True)]
        assert close(values(model), y), t
        evaluation_mode(optimiser)
        assert close(values(model), x), t
        training_mode(optimiser)
    assert not close(x, y, rtol=1e-3)


def test_a_look_at_the_average_changes_nothing(name: OptimiserName) -> None:
    """To 1e-12 in float64: the package goes back by the inverse interpolation."""
    model = Bowl()
    optimiser = optimiser_of(model, name, 0.02)
    training_mode(optimiser)
    for _ in range(5):
        step(model, optimiser)
    before = values(model)
    evaluation_mode(optimiser)
    held = values(model)
    evaluation_mode(optimiser)
    assert close(values(model), held, rtol=0.0)
    training_mode(optimiser)
    training_mode(optimiser)
    assert close(values(model), before, rtol=1e-12)
    assert (name == "schedule_free") is not close(before, held, rtol=1e-6)


def test_a_resumed_training_goes_on(name: OptimiserName) -> None:
    model = Bowl()
    optimiser = optimiser_of(model, name, 0.02, scale=0.5)
    training_mode(optimiser)
    for _ in range(5):
        step(model, optimiser)
    evaluation_mode(optimiser)
    saved = copy.deepcopy((model.state_dict(), optimiser.state_dict()))
    other = Bowl(start=7.0)
    resumed = optimiser_of(other, name, 0.5, scale=0.5)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for m, o in ((model, optimiser), (other, resumed)):
        training_mode(o)
        for _ in range(5):
            step(m, o)
        evaluation_mode(o)
    assert close(values(other), values(model), rtol=0.0)


def test_schedule_free_refuses_a_step_on_the_weights_to_save() -> None:
    pytest.importorskip("schedulefree")
    model = Bowl()
    optimiser = optimiser_of(model, "schedule_free", 0.02)
    with pytest.raises(Exception, match="train mode"):
        step(model, optimiser)


@pytest.mark.parametrize("start", [1.0, 30.0, 300.0])
def test_d_adaptation_finds_the_size_of_its_steps(start: float) -> None:
    """From lr 1.0: its `d` is a lower bound of the largest distance to go, and close to it."""
    pytest.importorskip("dadaptation")
    model = Bowl(start)
    before, distance = model.loss().item(), 6.0 * start - 0.5
    optimiser = optimiser_of(model, "dadapt_adam", 1.0, decay=0.0)
    first = optimiser.state_dict()["param_groups"][0]["d"]
    for _ in range(200):
        step(model, optimiser)
    assert model.loss().item() < 0.01 * before
    found = {group["d"] for group in optimiser.state_dict()["param_groups"]}
    assert len(found) == 1
    assert 0.8 * distance < found.pop() < distance
    # Negative control: with the step size it began with, nothing moves.
    control = Bowl(start)
    adam = torch.optim.Adam(control.parameters(), lr=first)
    for _ in range(200):
        step(control, adam)
    assert control.loss().item() > 0.9 * before


def test_d_adaptation_gets_scales_as_layer_scales() -> None:
    """It refuses groups with rates of their own."""
    pytest.importorskip("dadaptation")
    model = Bowl()
    optimiser = optimiser_of(model, "dadapt_adam", 1.0, scale=0.1)
    schedule.apply(optimiser, 0.5)
    step(model, optimiser)
    assert [group["lr"] for group in optimiser.param_groups] == [0.5, 0.5]
    assert [group["layer_scale"] for group in optimiser.param_groups] == [1.0, 0.1]
    optimiser.param_groups[1]["lr"] = 0.05
    with pytest.raises(RuntimeError, match="layer_scale"):
        step(model, optimiser)


def test_a_layer_scale_of_d_adaptation_scales_step_and_decay() -> None:
    pytest.importorskip("dadaptation")
    moved = []
    for scale in (1.0, 0.25):
        weight = nn.Parameter(torch.full((2, 2), 3.0, dtype=torch.float64))
        groups = parameter_groups([("encoder.weight", weight)], 0.5, {"encoder": scale})
        optimiser = build_optimiser("dadapt_adam", groups, 1.0)
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        moved.append(3.0 - weight.detach())
    assert torch.allclose(moved[1], 0.25 * moved[0], rtol=1e-6)


def test_building_is_silent(name: OptimiserName, capsys: pytest.CaptureFixture[str]) -> None:
    optimiser_of(Bowl(), name, 0.1)
    assert capsys.readouterr() == ("", "")


def test_the_first_rate_is_scaled(name: OptimiserName) -> None:
    groups = optimiser_of(Bowl(), name, 0.2, scale=0.5).param_groups
    expected = [0.2, 0.2] if name == "dadapt_adam" else [0.2, 0.1]
    assert [group["lr"] for group in groups] == pytest.approx(expected)


@pytest.mark.parametrize("absent", ["dadapt_adam", "schedule_free"])
def test_a_missing_package_is_named(absent: OptimiserName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[absent], None)
    with pytest.raises(UsageError, match=rf"{PACKAGES[absent]}.*xec-reconstruct\[adaptive\]"):
        optimiser_of(Bowl(), absent, 1.0)


@pytest.mark.parametrize(
    ("parameter", "spread"),
    [
        ("place_head.spread.0.weight", True),
        ("groups.0.network.head.spread_hidden.bias", True),
        ("spread_encoder.stem.weight", True),
        ("spread.weight", True),
        ("groups.1.mean_hidden.weight", False),
        ("encoder.widespread.weight", False),
        ("gamma_head.mean.0.weight", False),
    ],
)
def test_spread_paths_are_known_by_name(parameter: str, spread: bool) -> None:
    assert is_spread(parameter) is spread


def _paths() -> list[tuple[str, nn.Parameter]]:
    named = []
    for name, gradient in (
        ("mean.weight", torch.tensor([3.0, 4.0])),
        ("mean.bias", torch.tensor([12.0])),
        ("mean.frozen", None),
        ("spread.weight", torch.tensor([0.03, 0.04])),
        ("spread.frozen", None),
    ):
        parameter = nn.Parameter(torch.zeros(2 if gradient is None else len(gradient)))
        parameter.grad = gradient
        named.append((name, parameter))
    return named


def test_each_path_is_clipped_by_its_own_norm() -> None:
    named = _paths()
    norms = clip_separately(named, 1.0)
    assert norms == (pytest.approx(13.0), pytest.approx(0.05))
    assert norms.finite
    found = {name: p.grad for name, p in named}
    assert torch.allclose(found["mean.weight"], torch.tensor([3.0, 4.0]) / 13.0)
    assert torch.allclose(found["mean.bias"], torch.tensor([12.0]) / 13.0)
    assert torch.allclose(found["spread.weight"], torch.tensor([0.03, 0.04]))
    assert found["mean.frozen"] is None
    assert found["spread.frozen"] is None


@pytest.mark.parametrize("broken", ["mean.bias", "spread.weight"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_no_number_is_told_and_nothing_is_clipped(broken: str, value: float) -> None:
    named = _paths()
    gradient = dict(named)[broken].grad
    assert gradient is not None
    gradient[0] = value
    before = [None if p.grad is None else p.grad.clone() for _, p in named]
    norms = clip_separately(named, 1.0)
    assert not norms.finite
    assert math.isfinite(norms.spread if broken.startswith("mean") else norms.mean)
    for (_, parameter), old in zip(named, before, strict=True):
        assert parameter.grad is old or torch.equal(
            parameter.grad.nan_to_num(7.0), old.nan_to_num(7.0)
        )


def test_a_network_without_spread_has_a_spread_norm_of_zero() -> None:
    norms = clip_separately([pair for pair in _paths() if not is_spread(pair[0])], 20.0)
    assert norms == (pytest.approx(13.0), 0.0)
    assert norms.finite
