"""One gradient from several micro-batches and processes, as of one concatenated batch.

The specification divides each micro-batch's mean loss by their number; that under-scales leftovers
and misweights unequal masks. Here the weights of all micro-batches, which come from the data
alone, are added up first (over processes too), and every sum is divided by that total: the
gradient is that of the concatenated batch (METHODS, "accumulation").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from xec_training.tasks import Sample
from xec_training.terms import Term, sums, weights


class Processes(Protocol):
    """What the processes of a training do together; one process alone does nothing."""

    @property
    def count(self) -> int:
        """How many there are."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""

    def waiting(self, wait: bool) -> AbstractContextManager[object]:
        """A region whose gradients are not yet exchanged, if `wait`."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`; they are averaged over processes."""


@dataclass(frozen=True, slots=True)
class Accumulated:
    """What one optimiser step saw.

    Args:
        losses: weighted mean of each term, (T,), over all processes; None if no sample was good.
        used: samples whose gradients count.
        skipped: samples whose loss was no number, in any process.
    """

    losses: Tensor | None
    used: int
    skipped: int


def accumulate(
    predict: Callable[[Sample], Any],
    terms: Sequence[Term],
    samples: Sequence[Sample],
    processes: Processes,
    clear: Callable[[], None],
    loss_scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Accumulated:
    """Fill the gradients of one optimiser step.

    A sample whose loss is no number is left out in every process, and the rest is done again
    without it, so that its weight does not count either.

    Args:
        predict: sample to prediction, the forward pass of the wrapped network.
        terms: of the objective.
        samples: this process's micro-batches; every process has as many.
        processes: what they do together.
        clear: sets all gradients to none.
        loss_scale: of mixed precision.
    """
    left = list(range(len(samples)))
    while left:
        clear()
        result, bad = _attempt(predict, terms, [samples[i] for i in left], processes, loss_scale)
        if bad is None:
            return Accumulated(result, len(left), len(samples) - len(left))
        del left[bad]
    clear()
    return Accumulated(None, 0, len(samples))


def _attempt(
    predict: Callable[[Sample], Any],
    terms: Sequence[Term],
    samples: Sequence[Sample],
    processes: Processes,
    loss_scale: Callable[[Tensor], Tensor],
) -> tuple[Tensor | None, int | None]:
    """Losses of the terms, or the index of the first sample that has none."""
    total = processes.sum(torch.stack([weights(terms, sample) for sample in samples]).sum(0))
    scale = torch.tensor([t.scale for t in terms], dtype=torch.float64, device=total.device)
    factor = torch.where(total > 0, scale / total.clamp(min=1e-300), 0.0)
    found = torch.zeros_like(total)
    for index, sample in enumerate(samples):
        with processes.waiting(wait=index < len(samples) - 1):
            parts = sums(terms, predict(sample), sample)
            loss = (factor.to(parts) * parts).sum()
            bad = processes.sum((~torch.isfinite(loss)).double())
            if bad > 0:
                return None, index
            # Gradients are averaged over processes; the objective is a sum over them.
            processes.backward(loss_scale(loss * processes.count))
        found += parts.detach()
    return factor * processes.sum(found), None
