"""Where a training stands: in steps, in epochs of its schedule, in wall-clock time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from xec_training.settings import TrainingSettings

STEPS_OF_ENDLESS_DATA = 1000  # between validations, where an epoch has no length


def _now() -> float:
    return time.monotonic()


@dataclass(slots=True)
class Timeline:
    """Progress of a training, exact across interruptions.

    Args:
        settings: its length.
        batches_per_epoch: of the data; None where it is endless.
        step: optimiser steps made.
        events: seen, over all processes.
        seconds_before: wall-clock time of earlier sessions.
    """

    settings: TrainingSettings
    batches_per_epoch: int | None
    step: int = 0
    events: int = 0
    seconds_before: float = 0.0
    started: float = field(default_factory=_now)

    @property
    def seconds(self) -> float:
        """Spent so far, over all sessions."""
        return self.seconds_before + _now() - self.started

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps between validations."""
        if self.settings.steps_per_epoch is not None:
            return self.settings.steps_per_epoch
        if self.batches_per_epoch is None:
            return STEPS_OF_ENDLESS_DATA
        return max(1, -(-self.batches_per_epoch // self.settings.grad_accum_steps))

    @property
    def total_steps(self) -> int:
        """Of the whole training, where it is bounded by epochs."""
        return max(1, round(self.settings.epochs * self.steps_per_epoch))

    def fraction(self, seconds: float) -> float:
        """Done, from 0 to 1, when `seconds` have been spent."""
        if self.settings.minutes is not None:
            return min(1.0, seconds / (60.0 * self.settings.minutes))
        return min(1.0, self.step / self.total_steps)

    def position(self, seconds: float) -> float:
        """Epochs of the schedule."""
        return self.settings.epochs * self.fraction(seconds)

    @property
    def batches_of_this_step(self) -> int:
        """Micro-batches of the next step: fewer where an epoch's leftovers make one."""
        wanted = self.settings.grad_accum_steps
        if self.batches_per_epoch is None or self.settings.steps_per_epoch is not None:
            return wanted
        done = (self.step % self.steps_per_epoch) * wanted
        return max(1, min(wanted, self.batches_per_epoch - done))

    @property
    def epoch_ends(self) -> bool:
        """Whether the last step was an epoch's last."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know."""
        return {"step": self.step, "events": self.events, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.step, self.events = state["step"], state["events"]
        self.seconds_before = state["seconds"]
        self.started = _now()
