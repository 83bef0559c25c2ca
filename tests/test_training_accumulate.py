"""Accumulation: several micro-batches give the gradient of the concatenated batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import support_accumulate
from support_accumulate import TERMS, Rows, closed_form, difference, joined, rows
from xec_training.accumulate import accumulate


@pytest.fixture
def network() -> nn.Module:
    return support_accumulate.network()


class Alone:
    """One process."""

    count = 1

    def sum(self, values: Tensor) -> Tensor:
        return values

    def waiting(self, wait: bool) -> AbstractContextManager[object]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def gradient(network: nn.Module, parts: Sequence[Rows]) -> tuple[list[Tensor], Any]:
    done = accumulate(
        lambda sample: network(cast(Any, sample).x),
        TERMS,
        cast(Any, parts),
        Alone(),
        lambda: network.zero_grad(set_to_none=True),
    )
    return [p.grad.clone() for p in network.parameters() if p.grad is not None], done


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


def test_two_processes_give_the_gradient_of_one(network: nn.Module, tmp_path: Path) -> None:
    """DDP averages gradients, and the processes' masks are unequal: see tests/two_processes.py."""
    script = Path(__file__).with_name("two_processes.py")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    done = subprocess.run(
        [sys.executable, *launcher, "--rdzv-endpoint=127.0.0.1:0", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parts = [rows(size, seed) for seed, size in enumerate([3, 11, 8, 2])]
    expected = closed_form(network, joined(parts))
    for rank in range(2):
        found = load_file(tmp_path / f"rank-{rank}.safetensors")
        assert difference(list(found.values()), expected) < 1e-12
    # Control: what one process alone would have made of its own half.
    assert difference(closed_form(network, joined(parts[:2])), expected) > 1e-2
