"""The objective: every task's loss as terms, each a weighted mean that is divided once.

The objective is the sum over terms of scale * S / W with S = sum of weight * element and W = sum
of weight, both over all events of an optimiser step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xec_training import tasks
from xec_training.angular import great_circle
from xec_training.loss_settings import (
    AngleLoss,
    InpaintLosses,
    PretrainLosses,
    RegressLosses,
    TaskLoss,
)
from xec_training.losses import Elements, LossKind, elements
from xec_training.tasks import Sample, Task, View


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of the objective.

    Args:
        name: in logs.
        scale: factor in the objective.
        weight: sample to weights (B, ...), from the data alone.
        elements: prediction and sample to the loss of each element, same shape.
    """

    name: str
    scale: float
    weight: Callable[[Sample], Tensor]
    elements: Callable[[Any, Sample], Tensor]


def weights(terms: Sequence[Term], sample: Sample) -> Tensor:
    """Sum of the weights of each term, (T,) in float64."""
    return torch.stack([tasks.total(term.weight(sample)) for term in terms])


def sums(terms: Sequence[Term], prediction: Any, sample: Sample) -> Tensor:
    """Weighted sum of the elements of each term, (T,) in the prediction's precision."""
    parts = []
    for term in terms:
        weight = term.weight(sample)
        # Where an element does not count, its value must not either: 0 * inf would be NaN.
        loss = torch.where(weight > 0, term.elements(prediction, sample), 0.0)
        parts.append((weight * loss).sum())
    return torch.stack(parts)


def task_terms(task: Task, loss: TaskLoss) -> list[Term]:
    """The terms of one task: one for the mean, and one for its spread where the kind has one."""
    if loss.weight == 0.0:
        return []
    kind, unit = loss.loss_kind, loss.unit

    def both(view: View, target: Tensor) -> Elements:
        return elements(kind, view.mean, view.log_sigma, target, unit, view.noise_variance)

    def centre(prediction: Any, sample: Sample) -> Tensor:
        view = task.view(prediction, sample)
        joint = kind.trains_spread and not has_own_spread(kind)
        # A joint likelihood can only learn its sigma from the readings themselves.
        value = both(view, view.reading if joint else view.target).centre
        return value if view.emphasis is None or joint else value * view.emphasis

    def spread(prediction: Any, sample: Sample) -> Tensor:
        view = task.view(prediction, sample)
        value = both(view, view.reading).spread
        assert value is not None
        return value

    terms = [Term(task.name, loss.weight, task.weight, centre)]
    if has_own_spread(kind):
        terms.append(Term(f"{task.name}_spread", loss.weight, task.spread_weight, spread))
    return terms


def has_own_spread(kind: LossKind) -> bool:
    """Whether the spread is trained by a term of its own, around the stopped mean."""
    return kind.name in ("faithful", "split_nll", "noise_aware")


def _angle_terms(loss: AngleLoss) -> list[Term]:
    task = tasks.GAMMA_TASKS[-1]
    terms = task_terms(task, loss)
    if loss.distance == "components" or not terms:
        return terms

    def weight(sample: Sample) -> Tensor:
        return task.weight(sample)[:, 0]

    def centre(prediction: Any, sample: Sample) -> Tensor:
        view = task.view(prediction, sample)
        return great_circle(view.mean, view.target, loss.unit)

    return [Term(task.name, loss.weight, weight, centre), *terms[1:]]


def pretrain_terms(losses: PretrainLosses) -> list[Term]:
    """Masked and valid sensors only."""
    return [
        *task_terms(tasks.MASKED_NPHO, losses.npho),
        *task_terms(tasks.MASKED_TIME, losses.time),
    ]


def inpaint_terms(losses: InpaintLosses) -> list[Term]:
    """Hidden sensors, and live ones towards their light."""
    live = TaskLoss(kind="mse", weight=losses.live.weight)
    return [
        *task_terms(tasks.NPHO, losses.npho),
        *task_terms(tasks.LIVE, live),
        *task_terms(tasks.TIME, losses.time),
    ]


def regress_terms(losses: RegressLosses) -> list[Term]:
    """The same and the gamma."""
    energy, gamma_time, uvw, _ = tasks.GAMMA_TASKS
    return [
        *inpaint_terms(losses),
        *task_terms(energy, losses.energy),
        *task_terms(gamma_time, losses.gamma_time),
        *task_terms(uvw, losses.uvw),
        *_angle_terms(losses.angle),
    ]
