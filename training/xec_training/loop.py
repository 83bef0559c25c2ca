"""The training loop: simulate, flip, hide, predict, step, average; save often."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel

from xec.detector.geometry import Geometry
from xec.errors import DivergedError
from xec.models.build import build_reconstructor, preset
from xec.models.checkpoint import Checkpoint, save_checkpoint
from xec.models.reconstructor import Reconstructor
from xec.simulation.generator import Generator, SimulatedBatch
from xec_training.augment import MirrorFlip
from xec_training.config import TrainingConfig
from xec_training.ema import averaged
from xec_training.masking import hide
from xec_training.objective import task_losses
from xec_training.optimiser import build_optimiser, clip_separately
from xec_training.schedule import cosine_with_warmup
from xec_training.source import training_simulation

MAX_BAD_STEPS = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a running training, for whoever shows it."""

    fraction: float
    step: int
    events: int
    seconds: float
    losses: dict[str, float]


@dataclass(slots=True)
class Clock:
    """How far a training is: by steps, or by wall-clock minutes."""

    config: TrainingConfig
    started: float = field(default_factory=time.monotonic)
    steps: int = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Done, from 0 to 1."""
        if self.config.steps is not None:
            return min(1.0, self.steps / self.config.steps)
        return min(1.0, self.seconds / (60.0 * (self.config.minutes or 1.0)))


class Trainer:
    """One training run.

    Args:
        config: what to train, and for how long.
        geometry: of the simulated detector.
        device: where to simulate and train.
        out: folder of the checkpoint; its weights are the averaged ones.
    """

    def __init__(
        self, config: TrainingConfig, geometry: Geometry, device: torch.device, out: Path
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.geometry, self.device, self.out = config, geometry, device, out
        model_config = preset(config.preset)
        self.model_config = model_config
        self.model = build_reconstructor(model_config, geometry).to(device)
        self.average: AveragedModel = averaged(self.model, config.ema_decay)
        self.optimiser = build_optimiser(self.model, config)
        self.source = Generator(training_simulation(), geometry, device, config.seed)
        self.masks = torch.Generator(device).manual_seed(config.seed + 1)
        self.flip = MirrorFlip(device, torch.Generator().manual_seed(config.seed + 2))
        self.events = 0
        self.bad_steps = 0

    @property
    def averaged_model(self) -> Reconstructor:
        """The network with averaged weights."""
        module = self.average.module
        assert isinstance(module, Reconstructor)
        return module

    def run(self, report: Callable[[Progress], None]) -> Progress:
        """Train to the end of the budget, reporting and saving on the way."""
        progress = Progress(0.0, 0, 0, 0.0, {})
        saved = 0.0
        for progress in self._steps():
            report(progress)
            if progress.seconds - saved > 60.0 * self.config.save_minutes:
                self.save(progress)
                saved = progress.seconds
        self.save(progress)
        return progress

    def _steps(self) -> Iterator[Progress]:
        clock = Clock(self.config)
        while (fraction := clock.fraction) < 1.0:
            c = self.config
            for group in self.optimiser.param_groups:
                group["lr"] = cosine_with_warmup(fraction, c.lr, c.lr_min, c.warmup)
            losses = self.step(self.flip(self.source.sample(c.batch_size)))
            clock.steps += 1
            yield Progress(fraction, clock.steps, self.events, clock.seconds, losses)

    def step(self, batch: SimulatedBatch) -> dict[str, float]:
        """One optimiser step on one batch; a step whose loss is not finite is skipped."""
        self.model.train()
        masked = hide(batch, self.config.extra_mask, self.masks)
        prediction = self.model.predict(*masked.inputs)
        losses = task_losses(prediction, batch, masked, self.config.weights)
        total = torch.stack(list(losses.values())).sum()
        values = {name: float(value.detach()) for name, value in losses.items()}
        self.optimiser.zero_grad(set_to_none=True)
        if not math.isfinite(sum(values.values())):
            self._count_bad_step()
            return values
        total.backward()  # type: ignore[no-untyped-call]
        clip_separately(self.model.named_parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.events += len(batch)
        self.bad_steps = 0
        return values

    def _count_bad_step(self) -> None:
        self.bad_steps += 1
        if self.bad_steps >= MAX_BAD_STEPS:
            raise DivergedError(
                f"The loss was not finite in {MAX_BAD_STEPS} steps in a row; lower lr "
                f"(now {self.config.lr}). The last checkpoint in {self.out} is intact."
            )

    def save(self, progress: Progress) -> None:
        """Write the averaged weights."""
        training = {
            **self.config.as_dict(),
            "synthetic": True,
            "steps_bound": self.config.steps,
            "events": progress.events,
            "steps": progress.step,
            "seconds": round(progress.seconds),
            "device": str(self.device),
        }
        checkpoint = Checkpoint(self.model_config, self.config.preset, self.geometry.hash, training)
        save_checkpoint(self.out, self.averaged_model, checkpoint)
