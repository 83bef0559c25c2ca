"""The training loop: read, hide, predict, step, average; validate and save each epoch.

Everything that decides the next step is in `state_dict`: an interrupted and resumed training is,
on a CPU, bit for bit the one that was not interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel

from xec.errors import DivergedError
from xec_training import optimiser as optimisers
from xec_training import schedule as schedules
from xec_training.accumulate import Accumulated, accumulate
from xec_training.augment import MirrorFlip, add_noise, jitter_times
from xec_training.data.batch import TrainingBatch
from xec_training.data.source import EventSource
from xec_training.ema import averaged
from xec_training.precision import MixedPrecision
from xec_training.processes import FabricProcesses
from xec_training.reweighting import Reweighting
from xec_training.schedule import Schedule
from xec_training.settings import TrainingSettings
from xec_training.stages import Plan
from xec_training.state import random_state, set_random_state
from xec_training.tasks import Sample
from xec_training.timeline import Timeline
from xec_training.unreached import freeze_unreached
from xec_training.validation import Report, validate

VALIDATION_SEED = 20_011


@dataclass(frozen=True, slots=True)
class Progress:
    """One optimiser step, for whoever shows it."""

    fraction: float
    position: float  # epochs
    step: int
    events: int
    seconds: float
    rate: float
    losses: Mapping[str, float]
    skipped: int  # micro-batches whose loss was no number, so far


@dataclass(slots=True)
class Counts:
    """Micro-batches and steps that were left out, and time spent waiting for data."""

    skipped: int = 0
    in_a_row: int = 0
    overflows: int = 0
    data_s: float = 0.0
    best: float = field(default=math.inf)


def build_schedule(settings: TrainingSettings) -> Schedule:
    """The schedule that the settings name."""
    s = settings
    match s.scheduler:
        case "cosine":
            return schedules.Cosine(s.lr, s.lr_min, s.warmup_epochs, s.epochs)
        case "onecycle":
            return schedules.OneCycle(s.lr, s.max_lr or s.lr, s.pct_start, s.lr_min, s.epochs)
        case "plateau":
            return schedules.Plateau(s.lr, s.lr_patience, s.lr_factor, s.lr_min, s.warmup_epochs)
        case "none":
            return schedules.Constant(s.lr, s.warmup_epochs)


class Trainer:
    """One training run of one process.

    Args:
        fabric: launched.
        plan: of the stage; its network is moved to Fabric's device.
        settings: how to train.
        source: events of this process.
        validation: held-out events of this process.
        reweighting: weights of events in the gamma's tasks.
    """

    def __init__(
        self,
        fabric: Fabric,
        plan: Plan,
        settings: TrainingSettings,
        source: EventSource,
        validation: EventSource,
        reweighting: Reweighting | None = None,
    ) -> None:
        self.fabric, self.plan, self.settings = fabric, plan, settings
        self.source, self.validation, self.reweighting = source, validation, reweighting
        self.device = fabric.device
        self.model = plan.model.to(self.device)
        if fabric.world_size > 1:
            freeze_unreached(plan, next(iter(validation.batches())))
        predictor = plan.predictor()
        forward = torch.compile(predictor) if settings.compile else predictor
        self.network = fabric.setup_module(cast(nn.Module, forward))
        self.processes = FabricProcesses(fabric, self.network)
        self.average: AveragedModel | None = (
            None if settings.ema_decay is None else averaged(self.model, settings.ema_decay)
        )
        groups = optimisers.parameter_groups(
            self.model.named_parameters(),
            settings.weight_decay,
            {"encoder": settings.encoder_lr_scale},
        )
        self.optimiser = optimisers.build_optimiser(settings.optimizer, groups, settings.lr)
        optimisers.training_mode(self.optimiser)
        self.schedule = build_schedule(settings)
        self.precision = MixedPrecision(settings.amp, self.device)
        self.timeline = Timeline(settings, source.batches_per_epoch)
        self.counts = Counts()
        # Dropped paths differ between processes, initial weights do not.
        torch.manual_seed(settings.seed + 7919 * (fabric.global_rank + 1))
        seed = 3 * settings.seed + 104_729 * fabric.global_rank
        self.masks = torch.Generator(self.device).manual_seed(seed + 1)
        self.flip = MirrorFlip(self.device, torch.Generator(self.device).manual_seed(seed + 2))

    def steps(self) -> Iterator[Progress]:
        """Optimiser steps to the end of the training."""
        while True:
            seconds = self.processes.first(self.timeline.seconds)
            fraction = self.timeline.fraction(seconds)
            if fraction >= 1.0:
                return
            position = self.timeline.position(seconds)
            rate = self.schedule.rate(position)
            losses = self.step(rate)
            yield Progress(
                fraction=self.timeline.fraction(seconds),
                position=position,
                step=self.timeline.step,
                events=self.timeline.events,
                seconds=seconds,
                rate=rate,
                losses=losses,
                skipped=self.counts.skipped,
            )

    def step(self, rate: float) -> dict[str, float]:
        """One optimiser step; the weighted loss of each term, empty if no sample was good."""
        self.network.train()
        schedules.apply(self.optimiser, rate)
        samples = [self._next_sample() for _ in range(self.timeline.batches_of_this_step)]
        self.timeline.step += 1
        self.timeline.events += sum(len(s.batch) for s in samples) * self.processes.count
        done = accumulate(
            self._forward,
            self.plan.terms,
            samples,
            self.processes,
            lambda: self.optimiser.zero_grad(set_to_none=True),
            self.precision.scale,
        )
        self._count(done)
        if done.losses is None:
            return {}
        if self._update() and self.average is not None:
            self.average.update_parameters(self.model)
        names = [term.name for term in self.plan.terms]
        return dict(zip(names, done.losses.tolist(), strict=True))

    def _update(self) -> bool:
        """Clip and step; whether the step was made."""
        self.precision.unscale(self.optimiser)
        norms = optimisers.clip_separately(self.model.named_parameters(), self.settings.clip_norm)
        self.precision.step(self.optimiser, norms.finite)
        if norms.finite:
            self.counts.in_a_row = 0
        elif self.precision.may_overflow:
            self.counts.overflows += 1
        else:
            self._bad(1)
        return norms.finite

    def _forward(self, sample: Sample) -> Any:
        with self.precision.region():
            return self.network(*sample.masked.inputs)

    def _next_sample(self) -> Sample:
        started = time.monotonic()
        batch = self.source.next_batch()
        self.counts.data_s += time.monotonic() - started
        return self._prepared(self.flip(batch) if self.settings.flip else batch)

    def _prepared(self, batch: TrainingBatch) -> Sample:
        """Weighted, hidden and with noise on what the network sees."""
        masked = self.plan.mask(batch, self.masks)
        masked = add_noise(masked, self.settings.npho_noise, self.masks)
        return Sample(
            _weighted(batch, self.reweighting),
            jitter_times(masked, self.settings.time_jitter, self.masks),
        )

    def _count(self, done: Accumulated) -> None:
        if done.skipped:
            self._bad(done.skipped)

    def _bad(self, count: int) -> None:
        self.counts.skipped += count
        self.counts.in_a_row += count
        if self.counts.in_a_row >= self.settings.max_bad_batches:
            raise DivergedError(
                f"The loss was no finite number in {self.counts.in_a_row} micro-batches in a row; "
                f"lower training.lr (now {self.settings.lr:g}) or look at the data. What was saved "
                "before is intact."
            )

    def validate(self) -> Report:
        """Measure the averaged network on the held-out events, and tell the schedule."""
        with self.evaluation() as model:
            predictor = self.plan.predictor(model)

            def predict(sample: Sample) -> Any:
                with self.precision.region():
                    return predictor(*sample.masked.inputs)

            report = validate(
                predict,
                self._validation_samples(),
                self.plan.measured,
                self.settings.monitor,
                self.processes.sum,
            )
        self.schedule.observe(report.monitor)
        return report

    def _validation_samples(self) -> Iterator[Sample]:
        rng = torch.Generator(self.device).manual_seed(VALIDATION_SEED)
        for batch in self.validation.batches():
            yield Sample(batch, self.plan.validation_mask(batch, rng))

    @contextmanager
    def evaluation(self) -> Iterator[nn.Module]:
        """The network to validate and to save: the averaged one, in evaluation mode.

        Schedule-Free keeps its average in the network's own place; afterwards the weights are
        put back bit for bit, so that looking changes nothing.
        """
        if self.average is not None:
            yield self.average.module.eval()
            return
        live = [p.detach().clone() for p in self.model.parameters()]
        optimisers.evaluation_mode(self.optimiser)
        self.model.eval()
        try:
            yield self.model
        finally:
            optimisers.training_mode(self.optimiser)
            with torch.no_grad():
                for parameter, value in zip(self.model.parameters(), live, strict=True):
                    parameter.copy_(value)
            self.model.train()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next step."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "precision": self.precision.state_dict(),
            "timeline": self.timeline.state_dict(),
            "source": self.source.state_dict(),
            "masks": self.masks.get_state(),
            "flip": self.flip.generator.get_state(),
            "random": random_state(self.device),
            "counts": asdict(self.counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.precision.load_state_dict(state["precision"])
        self.timeline.load_state_dict(state["timeline"])
        self.source.load_state_dict(state["source"])
        self.masks.set_state(state["masks"])
        self.flip.generator.set_state(state["flip"])
        self.counts = Counts(**state["counts"])
        set_random_state(state["random"], self.device)


def _weighted(batch: TrainingBatch, reweighting: Reweighting | None) -> TrainingBatch:
    if reweighting is None:
        return batch
    return replace(batch, weight=reweighting.weights(batch.energy, batch.angle))
