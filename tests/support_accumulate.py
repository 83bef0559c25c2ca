"""A small objective with two terms whose masks are very unequal, and its closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from xec_training.tasks import Sample
from xec_training.terms import Term


class Rows(NamedTuple):
    """Inputs, targets and the weights of two terms; stands for a sample."""

    x: Tensor
    y: Tensor
    first: Tensor
    second: Tensor


def weight_of(name: str) -> Callable[[Sample], Tensor]:
    return lambda sample: cast(Tensor, getattr(sample, name))


TERMS = [
    Term("first", 0.7, weight_of("first"), lambda p, s: (p - cast(Any, s).y).square()),
    Term("second", 2.5, weight_of("second"), lambda p, s: (p - 1.0).abs()),
]


def network() -> nn.Module:
    """The same weights wherever it is called."""
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


def closed_form(network: nn.Module, whole: Rows) -> list[Tensor]:
    """The objective of the concatenated batch, written out."""
    p = network(whole.x)
    first = (whole.first * (p - whole.y).square()).sum() / whole.first.sum()
    second = (whole.second * (p - 1.0).abs()).sum() / whole.second.sum()
    return list(torch.autograd.grad(0.7 * first + 2.5 * second, list(network.parameters())))


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
