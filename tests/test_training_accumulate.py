"""Accumulation: several micro-batches give the gradient of the concatenated batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn

from xec_training.accumulate import accumulate
from xec_training.tasks import Sample
from xec_training.terms import Term


class Rows(NamedTuple):
    """Inputs, targets and the weights of two terms; stands for a sample."""

    x: Tensor
    y: Tensor
    first: Tensor
    second: Tensor


class Alone:
    """One process."""

    count = 1

    def sum(self, values: Tensor) -> Tensor:
        return values

    def waiting(self, wait: bool) -> AbstractContextManager[object]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def weight_of(name: str) -> Callable[[Sample], Tensor]:
    return lambda sample: cast(Tensor, getattr(sample, name))


TERMS = [
    Term("first", 0.7, weight_of("first"), lambda p, s: (p - cast(Any, s).y).square()),
    Term("second", 2.5, weight_of("second"), lambda p, s: (p - 1.0).abs()),
]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def rows(count: int, seed: int) -> Rows:
    """Rows whose masks are very unequal: the second term sees few elements, or none at all."""
    rng = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 3, generator=rng, dtype=torch.float64)
    return Rows(
        torch.randn(count, 4, generator=rng, dtype=torch.float64),
        torch.randn(count, 3, generator=rng, dtype=torch.float64),
        (draw > 0.2).double(),
        (draw > 0.7).double() * (seed != 2),
    )


def joined(parts: Sequence[Rows]) -> Rows:
    return Rows(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def gradient(network: nn.Module, parts: Sequence[Rows]) -> tuple[list[Tensor], Any]:
    done = accumulate(
        lambda sample: network(cast(Any, sample).x),
        TERMS,
        cast(Any, parts),
        Alone(),
        lambda: network.zero_grad(set_to_none=True),
    )
    return [p.grad.clone() for p in network.parameters() if p.grad is not None], done


def closed_form(network: nn.Module, whole: Rows) -> list[Tensor]:
    """The objective of the concatenated batch, written out."""
    p = network(whole.x)
    first = (whole.first * (p - whole.y).square()).sum() / whole.first.sum()
    second = (whole.second * (p - 1.0).abs()).sum() / whole.second.sum()
    return list(torch.autograd.grad(0.7 * first + 2.5 * second, list(network.parameters())))


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


SIZES = {"equal": [8, 8, 8], "leftover": [8, 8, 3], "unequal": [1, 17, 6, 2], "alone": [5]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_gradient_is_that_of_the_concatenated_batch(
    network: nn.Module, sizes: list[int]
) -> None:
    parts = [rows(size, seed) for seed, size in enumerate(sizes)]
    found, done = gradient(network, parts)
    assert difference(found, closed_form(network, joined(parts))) < 1e-12
    assert done.used == len(sizes)


def test_dividing_each_micro_batch_by_their_number_is_not(network: nn.Module) -> None:
    """Negative control: the specification's recipe, on leftovers with unequal masks."""
    parts = [rows(size, seed) for seed, size in enumerate([*SIZES["leftover"][:2], 3])]
    network.zero_grad()
    for part in parts:
        grads = closed_form(network, part._replace(second=part.second + 1e-9))
        for parameter, grad in zip(network.parameters(), grads, strict=True):
            share = grad / len(parts)
            parameter.grad = share if parameter.grad is None else parameter.grad + share
    found = [cast(Tensor, p.grad) for p in network.parameters()]
    assert difference(found, closed_form(network, joined(parts))) > 1e-2


def test_losses_are_the_terms_of_the_objective(network: nn.Module) -> None:
    parts = [rows(6, 0), rows(9, 1)]
    _, done = gradient(network, parts)
    whole = joined(parts)
    p = network(whole.x)
    first = 0.7 * (whole.first * (p - whole.y).square()).sum() / whole.first.sum()
    second = 2.5 * (whole.second * (p - 1.0).abs()).sum() / whole.second.sum()
    assert done.losses.tolist() == pytest.approx([first.item(), second.item()], rel=1e-12)


def test_a_sample_without_a_finite_loss_counts_neither_in_sum_nor_in_weight(
    network: nn.Module,
) -> None:
    good = [rows(6, 0), rows(9, 1)]
    bad = rows(5, 3)
    bad = bad._replace(y=torch.full_like(bad.y, torch.nan))
    found, done = gradient(network, [good[0], bad, good[1]])
    assert (done.used, done.skipped) == (2, 1)
    assert difference(found, closed_form(network, joined(good))) < 1e-12


def test_nothing_good_leaves_no_gradient(network: nn.Module) -> None:
    bad = rows(5, 3)._replace(y=torch.full((5, 3), torch.inf, dtype=torch.float64))
    found, done = gradient(network, [bad, bad])
    assert found == []
    assert (done.losses, done.used, done.skipped) == (None, 0, 2)


def test_a_term_that_nothing_belongs_to_adds_nothing(network: nn.Module) -> None:
    part = rows(7, 2)
    assert not part.second.any()
    found, done = gradient(network, [part])
    p = network(part.x)
    first = 0.7 * (part.first * (p - part.y).square()).sum() / part.first.sum()
    expected = torch.autograd.grad(first, list(network.parameters()))
    assert difference(found, list(expected)) < 1e-12
    assert done.losses[1] == 0.0
