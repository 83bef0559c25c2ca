"""Small trainings for tests: one process, tiny network, few simulated events."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from xec.detector.geometry import parametric
from xec_training import state
from xec_training.data.open import open_source
from xec_training.settings import InpaintSettings, PretrainSettings, RegressSettings
from xec_training.settings_file import load_settings
from xec_training.stages import plan
from xec_training.trainer import Trainer

KINDS = {"pretrain": PretrainSettings, "inpaint": InpaintSettings, "regress": RegressSettings}
SMALL = (
    "model.preset=tiny",
    "data.source=sim:18",
    "data.validation_events=8",
    "training.batch_size=4",
    "training.epochs=2",
    "training.lr=0.002",
)


@cache
def one_process() -> Fabric:
    """A launched Fabric on the CPU."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


def trainer(stage: str, *overrides: str, source: Any = None) -> Trainer:
    """A trainer of a stage; `overrides` as `--set` takes them."""
    settings = load_settings(KINDS[stage], None, [*SMALL, *overrides])
    common: dict[str, Any] = {
        "geometry": parametric(),
        "device": torch.device("cpu"),
        "seed": settings.training.seed,
        "batch_size": settings.training.batch_size,
    }
    torch.manual_seed(settings.training.seed)
    the_plan = plan(settings, parametric())
    events = source or open_source(settings.data.source, **common)
    held_out = open_source("sim:8", part="validation", **common)
    return Trainer(one_process(), the_plan, settings.training, events, held_out)


def run(training: Trainer, steps: int | None = None) -> Trainer:
    """Make `steps` steps, or all; validate at the end of each epoch, as a session does."""
    for done, _ in enumerate(training.steps(), start=1):
        if training.timeline.epoch_ends:
            training.validate()
        if done == steps:
            break
    return training


def through_disk(training: Trainer, folder: Path) -> Any:
    """The state of a training as another process would read it."""
    state.write_part(folder, training.timeline.step, 0, training.state_dict())
    state.publish(folder, training.timeline.step)
    return state.read_part(folder, 0, 1)


def weights(training: Trainer) -> dict[str, torch.Tensor]:
    """Live and averaged weights and the optimiser's tensors, by name."""
    _, tensors = state.flatten(
        {
            "model": training.model.state_dict(),
            "average": None if training.average is None else training.average.state_dict(),
            "optimiser": training.optimiser.state_dict(),
        }
    )
    return {name: value.clone() for name, value in tensors.items()}


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not bit for bit the same."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
