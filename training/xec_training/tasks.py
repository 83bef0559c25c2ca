"""What there is to learn, one task per quantity: which numbers are compared, and where.

A task says for each event and element what the network predicts, what it should be, and how much
the element counts. The weights come from the data alone, so that sums over any number of
micro-batches can be divided once. Losses (`terms`) and validation (`validation`) are both made
from tasks.

On simulated events the means learn the expected light, which has the same expectation as the
reading but none of its noise; the spreads learn the reading (METHODS, "Uncertainty"). Sensors
that the network itself expects to be bright count more, in proportion to their root count: half
way from relative to absolute errors. That emphasis comes from the prediction, not from the
target, which would bias the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from xec.models.frontend import root_of_npho
from xec_training.data.batch import TrainingBatch
from xec_training.masking import Masked

TIME_LIGHT: Final = 1000.0  # photons at which a sensor's time has full weight
BRIGHT_ROOT: Final = 4.0  # root count (30 photons) above which a sensor counts more
LIVE_SHARE: Final = 0.02  # weight of a live sensor's spread beside that of a hidden one
LIVE_TIME_SHARE: Final = 0.1


class Sample(NamedTuple):
    """Events and what of them the network sees."""

    batch: TrainingBatch
    masked: Masked


class View(NamedTuple):
    """A task's tensors, all of one shape (B, ...)."""

    mean: Tensor
    log_sigma: Tensor
    target: Tensor  # what the mean should be
    reading: Tensor  # what is distributed around it with sigma
    emphasis: Tensor | None = None  # factor on the mean's error
    noise_variance: Tensor | None = None  # of the reading around the target, where it is known


@dataclass(frozen=True, slots=True)
class Task:
    """One quantity to learn.

    Args:
        name: key in the settings, logs and reports.
        unit: of errors in reports; empty for pure numbers.
        view: prediction and sample to the tensors.
        weight: sample to the weights (B, ...) of the mean, from the data alone.
        spread_weight: the same of the spread.
    """

    name: str
    unit: str
    view: Callable[[Any, Sample], View]
    weight: Callable[[Sample], Tensor]
    spread_weight: Callable[[Sample], Tensor]


def _npho(prediction: Any, sample: Sample) -> View:
    batch = sample.batch
    return View(
        mean=prediction.root,
        log_sigma=prediction.root_log_sigma,
        target=root_of_npho(batch.light),
        reading=root_of_npho(batch.npho),
        emphasis=(prediction.root.detach() / BRIGHT_ROOT).clamp(min=1.0),
        noise_variance=getattr(prediction, "root_noise", None),
    )


def _live(prediction: Any, sample: Sample) -> View:
    return _npho(prediction, sample)._replace(emphasis=None)


def _time(prediction: Any, sample: Sample) -> View:
    time = sample.batch.time
    return View(prediction.time, prediction.time_log_sigma, time, time)


def _hidden(sample: Sample) -> Tensor:
    return sample.masked.hidden.float()


def _seen(sample: Sample) -> Tensor:
    return sample.masked.live.float()


def _hidden_and_a_little_live(sample: Sample) -> Tensor:
    return _hidden(sample) + LIVE_SHARE * _seen(sample)


def _brightness(sample: Sample) -> Tensor:
    """Weight of a time by its sensor's light, 0 where there is none."""
    light = (sample.batch.light / TIME_LIGHT).clamp(0.0, 1.0)
    return light * sample.batch.time_valid


def _timed(sample: Sample) -> Tensor:
    return _brightness(sample) * (_hidden(sample) + LIVE_TIME_SHARE * _seen(sample))


def _hidden_and_timed(sample: Sample) -> Tensor:
    return _brightness(sample) * _hidden(sample)


def _gamma(name: str, unit: str) -> Task:
    def view(prediction: Any, sample: Sample) -> View:
        mean = getattr(prediction, name)
        target = getattr(sample.batch, name).reshape(mean.shape)
        return View(mean, getattr(prediction, f"{name}_log_sigma"), target, target)

    def weight(sample: Sample) -> Tensor:
        batch = sample.batch
        width = getattr(batch, name).reshape(len(batch), -1).shape[1]
        return (batch.weight * batch.has_truth).unsqueeze(1).expand(-1, width)

    return Task(name, unit, view, weight, weight)


NPHO: Final = Task("npho", "", _npho, _hidden, _hidden_and_a_little_live)
LIVE: Final = Task("live", "", _live, _seen, _seen)
TIME: Final = Task("time", "ns", _time, _timed, _timed)
MASKED_NPHO: Final = Task("npho", "", _live, _hidden, _hidden)
MASKED_TIME: Final = Task("time", "ns", _time, _hidden_and_timed, _hidden_and_timed)
GAMMA_TASKS: Final = (
    _gamma("energy", "MeV"),
    _gamma("gamma_time", "ns"),
    _gamma("uvw", "cm"),
    _gamma("angle", "degrees"),
)


def columns(mean: Tensor) -> Iterable[str]:
    """Names of a gamma task's components, empty for a single one."""
    return {3: ("u", "v", "w"), 2: ("theta", "phi")}.get(mean.shape[1], ("",))


def total(values: Tensor) -> Tensor:
    """Sum in float64: an event's 4760 sensors times many events lose digits in float32."""
    return values.sum(dtype=torch.float64)
