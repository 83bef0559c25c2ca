"""The three stages: which network, which losses, which masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from xec.detector.geometry import Geometry
from xec.models.build import ModelConfig, build_autoencoder, build_reconstructor, preset
from xec.models.checkpoint import Stage
from xec.models.reconstructor import Prediction, Reconstructor
from xec.models.stage import GridAttention
from xec_training import tasks
from xec_training.data.batch import TrainingBatch
from xec_training.loss_settings import TaskLoss
from xec_training.masking import Masked, hide, mask_for_pretraining
from xec_training.settings import (
    InpaintSettings,
    ModelSettings,
    PretrainSettings,
    RegressSettings,
)
from xec_training.tasks import Task
from xec_training.terms import Term, inpaint_terms, pretrain_terms, regress_terms

Mask = Callable[[TrainingBatch, torch.Generator], Masked]
AnySettings = PretrainSettings | InpaintSettings | RegressSettings

SETTINGS: Final[Mapping[Stage, type[AnySettings]]] = {
    "pretrain": PretrainSettings,
    "inpaint": InpaintSettings,
    "regress": RegressSettings,
}


class Predict(nn.Module):
    """A reconstructor as a module whose forward pass is what the losses want."""

    def __init__(self, model: Reconstructor) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, npho: Tensor, time: Tensor, npho_valid: Tensor, time_valid: Tensor
    ) -> Prediction:
        """The contract's inputs to a prediction."""
        return self.model.predict(npho, time, npho_valid, time_valid)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything that distinguishes one stage from another.

    Args:
        stage: its name.
        config: of the network.
        model: the network; its state is what a checkpoint holds.
        terms: the objective.
        measured: tasks to validate, with their losses' weights and units.
        mask: what the network sees in training.
        validation_mask: the same in validation.
    """

    stage: Stage
    config: ModelConfig
    model: nn.Module
    terms: list[Term]
    measured: list[tuple[Task, TaskLoss]]
    mask: Mask
    validation_mask: Mask

    def predictor(self, model: nn.Module | None = None) -> nn.Module:
        """The network (or a copy of it) as a module from inputs to predictions."""
        model = self.model if model is None else model
        return Predict(model) if isinstance(model, Reconstructor) else model


def model_config(settings: ModelSettings) -> ModelConfig:
    """The preset with the options of the settings."""
    config = preset(settings.preset)
    return replace(
        config,
        attention=GridAttention(settings.attention, settings.attention_placement),
        positions=settings.positions,
        graph_mixer=settings.graph_mixer,
        drop_path=config.drop_path if settings.drop_path is None else settings.drop_path,
        spread=settings.spread,
        noise_floor=settings.noise_floor,
        fit_steps=settings.fit_steps,
    )


def plan(settings: AnySettings, geometry: Geometry) -> Plan:
    """The plan of the stage that the settings belong to, with a fresh network."""
    config = model_config(settings.model)
    if isinstance(settings, PretrainSettings):
        return _pretrain(settings, config, geometry)
    sensors = [
        (tasks.NPHO, settings.loss.npho),
        (tasks.LIVE, TaskLoss(kind="mse", weight=settings.loss.live.weight)),
        (tasks.TIME, settings.loss.time),
    ]
    extra, bright = settings.model.mask_ratio, settings.model.bright_mask_ratio
    common: dict[str, Any] = {
        "config": config,
        "model": build_reconstructor(config, geometry),
        "mask": lambda batch, rng: hide(batch, extra, bright, rng),
        "validation_mask": lambda batch, rng: hide(batch, 0.0, 0.0, rng),
    }
    if isinstance(settings, RegressSettings):
        gamma = [(task, getattr(settings.loss, task.name)) for task in tasks.GAMMA_TASKS]
        measured = [*sensors, *gamma]
        return Plan("regress", terms=regress_terms(settings.loss), measured=measured, **common)
    return Plan("inpaint", terms=inpaint_terms(settings.loss), measured=sensors, **common)


def _pretrain(settings: PretrainSettings, config: ModelConfig, geometry: Geometry) -> Plan:
    ratio, kind = settings.model.mask_ratio, settings.model.mask_kind

    def mask(batch: TrainingBatch, rng: torch.Generator) -> Masked:
        return mask_for_pretraining(batch, ratio, kind, rng)

    return Plan(
        stage="pretrain",
        config=config,
        model=build_autoencoder(config, geometry),
        terms=pretrain_terms(settings.loss),
        measured=[
            (tasks.MASKED_NPHO, settings.loss.npho),
            (tasks.MASKED_TIME, settings.loss.time),
        ],
        mask=mask,
        validation_mask=mask,
    )
