"""Validation: errors and likelihoods of every task on held-out events, in physical units.

The value that selects checkpoints is never the training loss, which for beta-NLL is no proper
score (METHODS L5): it is the root of the weighted mean squared errors, or the weighted negative
log likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from xec.models.frontend import npho_of_root
from xec.models.inpainting import gather_faces
from xec_training.loss_settings import TaskLoss
from xec_training.losses import gaussian_nll
from xec_training.tasks import Sample, Task, columns, total

Monitor = Literal["rmse", "nll"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Weighted sums of one task over the validation events, per component."""

    weight: Tensor  # (K,) float64
    squares: Tensor
    nll: Tensor


@dataclass(frozen=True, slots=True)
class Report:
    """What a validation found.

    Args:
        metrics: by name, such as `rmse/energy`, `nll/uvw`, `mae/npho/inner`.
        monitor: the value that selects checkpoints; smaller is better.
    """

    metrics: Mapping[str, float]
    monitor: float


def _measure(task: Task, prediction: Any, sample: Sample) -> Measured:
    view = task.view(prediction, sample)
    weight = task.weight(sample)
    error = (view.mean - view.target).square()
    nll = gaussian_nll(view.mean, view.log_sigma, view.reading)
    if view.mean.shape[1] > 3:  # sensors, all of one kind
        return Measured(*(total(v)[None] for v in (weight, weight * error, weight * nll)))
    return Measured(*(v.double().sum(0) for v in (weight, weight * error, weight * nll)))


def sensor_errors(prediction: Any, sample: Sample) -> dict[str, Tensor]:
    """Sum of |error| in photons and number of hidden sensors, per face, (2,) float64 each."""
    photons = npho_of_root(prediction.root)
    error = (photons - sample.batch.light).abs().unsqueeze(1)  # (B, 1, 4760)
    return {
        str(face): torch.stack([total(masked.values), total(masked.valid)])
        for face, masked in gather_faces(error, sample.masked.hidden).items()
    }


@torch.no_grad()
def validate(
    predict: Callable[[Sample], Any],
    samples: Iterable[Sample],
    tasks: Sequence[tuple[Task, TaskLoss]],
    monitor: Monitor,
    reduce: Callable[[Tensor], Tensor],
) -> Report:
    """Metrics over one pass.

    Args:
        predict: sample to prediction, in evaluation mode.
        samples: validation events, masked; the same ones each time.
        tasks: what is measured, with the weights and units of the objective.
        monitor: which value selects checkpoints.
        reduce: sum over processes.
    """
    found: dict[str, Measured] = {}
    faces: dict[str, Tensor] = {}
    for sample in samples:
        prediction = predict(sample)
        for task, _ in tasks:
            part = _measure(task, prediction, sample)
            old = found.get(task.name)
            found[task.name] = part if old is None else _added(old, part)
        for face, sums in sensor_errors(prediction, sample).items():
            faces[face] = faces.get(face, torch.zeros_like(sums)) + sums
    found = {name: _reduced(part, reduce) for name, part in found.items()}
    metrics = _metrics(found, tasks)
    for face, sums in faces.items():
        size, count = reduce(sums).tolist()
        metrics[f"mae/npho/{face}"] = size / count if count else math.nan
    return Report(metrics, _monitored(found, tasks, monitor))


def _added(a: Measured, b: Measured) -> Measured:
    return Measured(a.weight + b.weight, a.squares + b.squares, a.nll + b.nll)


def _reduced(part: Measured, reduce: Callable[[Tensor], Tensor]) -> Measured:
    return Measured(reduce(part.weight), reduce(part.squares), reduce(part.nll))


def _metrics(
    found: Mapping[str, Measured], tasks: Sequence[tuple[Task, TaskLoss]]
) -> dict[str, float]:
    metrics = {}
    for task, loss in tasks:
        part = found[task.name]
        for index, component in enumerate(columns(part.weight[None])):
            name = f"{task.name}/{component}" if component else task.name
            weight = float(part.weight[index])
            mean = math.nan if weight == 0 else float(part.squares[index]) / weight
            metrics[f"rmse/{name}"] = math.sqrt(mean)
            if loss.loss_kind.trains_spread:
                nll = math.nan if weight == 0 else float(part.nll[index]) / weight
                metrics[f"nll/{name}"] = nll
    return metrics


def _monitored(
    found: Mapping[str, Measured], tasks: Sequence[tuple[Task, TaskLoss]], monitor: Monitor
) -> float:
    """Weighted mean over tasks, of squared errors in units or of likelihoods."""
    value = 0.0
    for task, loss in tasks:
        part = found[task.name]
        weight = float(part.weight.sum())
        if weight == 0.0 or loss.weight == 0.0:
            continue
        if monitor == "rmse":
            value += loss.weight * float(part.squares.sum()) / weight / loss.unit**2
        elif loss.loss_kind.trains_spread:
            value += loss.weight * float(part.nll.sum()) / weight
    return math.sqrt(value) if monitor == "rmse" else value
