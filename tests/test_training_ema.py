"""The average of the weights against an explicit weighted sum."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from xec_training.ema import averaged, warmed_decay


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(1))
        self.seen: Tensor


def weights_of_step(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(3, generator=generator, dtype=torch.float64)


def train(model: Network, step: int) -> None:
    with torch.no_grad():
        model.weight.copy_(weights_of_step(step))
        model.seen.fill_(step)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_is_a_weighted_sum_of_all_steps(decay: float) -> None:
    """Step n weighs (1 - d_n), times the decays of all steps after it; the first weighs 1."""
    model, steps = Network(), 40
    average = averaged(model, decay)
    for step in range(steps):
        train(model, step)
        average.update_parameters(model)
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(steps)]
    shares = []
    for step in range(steps):
        share = 1.0 if step == 0 else 1.0 - decays[step]
        for later in range(step + 1, steps):
            share *= decays[later]
        shares.append(share)
    assert sum(shares) == pytest.approx(1.0, rel=1e-12)
    expected = sum(share * weights_of_step(step) for step, share in enumerate(shares))
    assert torch.allclose(average.module.weight, expected, rtol=1e-12)


def test_the_decay_warms_up_to_its_value() -> None:
    assert warmed_decay(0.999, 0) == pytest.approx(0.1)
    assert warmed_decay(0.999, 10_000_000) == 0.999
    assert warmed_decay(0.5, 100) == 0.5


def test_one_update_per_call_and_none_in_between() -> None:
    model = Network()
    average = averaged(model, 0.9)
    train(model, 1)
    average.update_parameters(model)
    assert int(average.n_averaged) == 1
    assert torch.equal(average.module.weight, model.weight)
    held = average.module.weight.clone()
    train(model, 2)
    assert torch.equal(average.module.weight, held)
    average.update_parameters(model)
    assert int(average.n_averaged) == 2
    assert not torch.equal(average.module.weight, held)
    assert not torch.equal(average.module.weight, model.weight)


def test_buffers_are_copied_and_not_averaged() -> None:
    model = Network()
    average = averaged(model, 0.9)
    for step in (3, 8):
        train(model, step)
        average.update_parameters(model)
        assert average.module.seen.item() == step


@pytest.mark.parametrize("restored", [True, False])
def test_a_resumed_average_goes_on(restored: bool) -> None:
    """Without its count (the negative control) it would start anew."""
    model = Network()
    average = averaged(model, 0.999)
    for step in range(5):
        train(model, step)
        average.update_parameters(model)
    state = copy.deepcopy(average.state_dict())
    assert int(state["n_averaged"]) == 5
    if not restored:
        state["n_averaged"].zero_()
    other = averaged(Network(), 0.999)
    other.load_state_dict(state)
    for step in range(5, 9):
        train(model, step)
        average.update_parameters(model)
        other.update_parameters(model)
    assert torch.equal(other.module.weight, average.module.weight) is restored
