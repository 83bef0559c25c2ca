"""What a training is told: one frozen dataclass, checked before anything starts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from xec.errors import UsageError


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of each task, and the unit in which its error is of order one.

    Args:
        masked: root counts of masked sensors.
        live: root counts of live sensors, towards their expected light.
        time: times of sensors; unit in ns.
        energy, gamma_time, uvw, angle: units in MeV, ns, cm and degrees.
    """

    masked: float = 4.0
    live: float = 0.5
    time: float = 0.2
    time_unit: float = 0.5
    energy: float = 0.3
    energy_unit: float = 1.0
    gamma_time: float = 0.2
    gamma_time_unit: float = 0.1
    uvw: float = 0.5
    uvw_unit: float = 0.5
    angle: float = 0.1
    angle_unit: float = 2.0


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """A training on simulated events.

    Exactly one of `steps` and `minutes` bounds it; the learning rate follows that bound.

    Args:
        preset: name of the network's preset.
        steps: optimiser steps.
        minutes: wall-clock budget.
        batch_size: events per step.
        lr, lr_min: learning rate after warm-up, and at the end of the cosine.
        warmup: fraction of the training for the linear warm-up.
        weight_decay: of AdamW, on matrices and kernels only.
        ema_decay: of the averaged weights, once warmed up.
        clip_norm: largest gradient norm, for the mean and the spread paths separately.
        extra_mask: largest additional fraction of sensors masked at random per event.
        seed: of the simulation, the masks and the initial weights.
        save_minutes: between checkpoints.
    """

    preset: str = "small"
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    lr: float = 2.0e-3
    lr_min: float = 1.0e-5
    warmup: float = 0.02
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    extra_mask: float = 0.15
    seed: int = 1
    save_minutes: float = 5.0
    weights: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError("A training is bounded by --steps or by --minutes: give one of them.")
        bound = self.steps if self.minutes is None else self.minutes
        if bound is not None and not 0 < bound < math.inf:
            raise UsageError(f"The bound of a training must be positive, not {bound}.")
        if not 0.0 < self.lr < math.inf:
            raise UsageError(f"The learning rate must be positive, not {self.lr}.")
        if not 0.0 <= self.warmup < 1.0:
            raise UsageError(f"warmup is a fraction of the training below 1, not {self.warmup}.")
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}.")

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON-serialisable values."""
        return asdict(self)
