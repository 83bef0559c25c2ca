"""The section `loss` of the settings: how each task is learned, per stage."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xec_training.losses import LossKind, LossName
from xec_training.sections import NotNegative, Positive, Section


class TaskLoss(Section):
    """How one task is learned.

    Args:
        kind: form of the loss, see `xec_training.losses`.
        weight: of the task in the sum.
        unit: error of order one, in the task's own unit.
        beta: exponent of beta_nll.
        transition: of smooth_l1, in units of `unit`.
    """

    kind: LossName = "faithful"
    weight: NotNegative = 1.0
    unit: Positive = 1.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    transition: Positive = 1.0

    @property
    def loss_kind(self) -> LossKind:
        """The form of the loss with its parameters."""
        return LossKind(self.kind, self.beta, self.transition)


class GammaTaskLoss(TaskLoss):
    """A task of the gamma; the known noise is one of readings."""

    kind: Literal["mse", "smooth_l1", "nll", "beta_nll", "faithful", "split_nll"] = "faithful"


class AngleLoss(GammaTaskLoss):
    """Direction: by its two components, or by the great-circle distance.

    Args:
        distance: what the mean minimises; sigmas are always those of the components.
    """

    distance: Literal["components", "great_circle"] = "components"

    @model_validator(mode="after")
    def _separable(self) -> Self:
        if self.distance == "great_circle" and self.kind not in ("mse", "faithful"):
            raise ValueError(
                f"loss.angle.distance great_circle goes with kind mse or faithful, not {self.kind}"
            )
        return self


class LiveLoss(Section):
    """Live sensors, towards what they should read: what makes predicted/measured useful."""

    weight: NotNegative = 0.5


class PretrainLosses(Section):
    """Losses of the masked sensors."""

    npho: TaskLoss = TaskLoss(kind="smooth_l1")
    time: TaskLoss = TaskLoss(kind="smooth_l1", weight=0.2, unit=0.5)


class InpaintLosses(Section):
    """Losses of the sensors: dead or masked ones, and live ones."""

    npho: TaskLoss = TaskLoss(weight=4.0)
    live: LiveLoss = LiveLoss()
    time: TaskLoss = TaskLoss(weight=0.2, unit=0.5)

    @property
    def tasks(self) -> tuple[TaskLoss, ...]:
        """The losses that have a kind."""
        return (self.npho, self.time)


class RegressLosses(InpaintLosses):
    """The same with the gamma; units in MeV, ns, cm and degrees."""

    energy: GammaTaskLoss = GammaTaskLoss(weight=0.3)
    gamma_time: GammaTaskLoss = GammaTaskLoss(weight=0.2, unit=0.1)
    uvw: GammaTaskLoss = GammaTaskLoss(weight=0.5, unit=0.5)
    angle: AngleLoss = AngleLoss(weight=0.1, unit=2.0)

    @property
    def tasks(self) -> tuple[TaskLoss, ...]:
        """The losses that have a kind."""
        return (self.npho, self.time, self.energy, self.gamma_time, self.uvw, self.angle)
