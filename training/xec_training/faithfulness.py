"""Is the mean of a heteroscedastic training as good as that of a plain squared error?

Stirn et al. (AISTATS 2023) call a loss faithful if it is. The report trains the same network on
the same events from the same seed once per kind of loss, and compares the errors of every task on
the same held-out events with those of the squared error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from xec.errors import UsageError
from xec.io.output import writing
from xec_training.keeper import Request
from xec_training.losses import LossName
from xec_training.optimiser import is_spread
from xec_training.session import Session
from xec_training.settings import RegressSettings
from xec_training.settings_file import as_dict

REFERENCE: Final = "mse"
REPORT: Final = "faithfulness.json"
TASKS: Final = ("npho", "time", "energy", "gamma_time", "uvw", "angle")
KINDS: Final = tuple(name for name in get_args(LossName) if name != "noise_aware")


@dataclass(frozen=True, slots=True)
class Trained:
    """One training of the comparison.

    Args:
        kind: of the loss.
        rmse: by task (and component) on the held-out events, in the task's unit.
        mean_path: the parameters that the means depend on.
    """

    kind: str
    rmse: Mapping[str, float]
    mean_path: Mapping[str, Tensor]


def with_kind(settings: RegressSettings, kind: str) -> RegressSettings:
    """The same settings with one kind of loss for every task.

    Raises:
        UsageError: when the kind contradicts another setting.
    """
    values = as_dict(settings)
    for task in TASKS:
        values["loss"][task]["kind"] = kind
    try:
        return RegressSettings.model_validate(values)
    except ValidationError as error:
        reason = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
        raise UsageError(f"--kind {kind} cannot be trained: {reason}.") from None


def compare(
    settings: RegressSettings, request: Request, kinds: Sequence[str], console: Console
) -> list[Trained]:
    """Train once per kind, the squared error first, and print the report.

    Args:
        settings: of the training; the kinds of its losses are replaced.
        request: `out` gets one folder per kind and `faithfulness.json`.
        kinds: to compare with the squared error.
        console: where the table goes.

    Raises:
        UsageError: a kind that does not exist, or several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("xec train faithfulness runs in one process: start it without torchrun.")
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--kind is one of {', '.join(KINDS)}, not {kind}.")
    wanted = [REFERENCE, *dict.fromkeys(kind for kind in kinds if kind != REFERENCE)]
    every = [with_kind(settings, kind) for kind in wanted]  # refused before any training
    trained = [_train(each, request, kind) for each, kind in zip(every, wanted, strict=True)]
    console.print(table(trained))
    for other in trained[1:]:
        console.print(verdict(trained[0], other), highlight=False, soft_wrap=True)
    with writing(request.out):
        (request.out / REPORT).write_text(json.dumps(as_json(trained), indent=2) + "\n")
    return trained


def _train(settings: RegressSettings, request: Request, kind: str) -> Trained:
    out = request.out / kind
    folder = Request(out, request.init, False, request.device, request.threads)
    report = Session(settings, folder).run()
    rmse = {
        name.removeprefix("rmse/"): value
        for name, value in report.metrics.items()
        if name.startswith("rmse/")
    }
    (weights,) = out.glob("weights-*.safetensors")
    state = load_file(weights)
    mean_path = {
        name: value
        for name, value in state.items()
        if not is_spread(name) and not name.startswith("sigma_scale.")
    }
    return Trained(kind, rmse, mean_path)


def identical(a: Trained, b: Trained) -> bool:
    """Whether the means come from bit for bit the same weights."""
    return all(torch.equal(value, b.mean_path[name]) for name, value in a.mean_path.items())


def table(trained: Sequence[Trained]) -> Table:
    """RMSE of each task for each kind, and its ratio to the squared error's."""
    reference = trained[0]
    result = Table(title="RMSE on the same held-out events", title_justify="left")
    result.add_column("task")
    for training in trained:
        result.add_column(training.kind, justify="right")
        if training is not reference:
            result.add_column("ratio", justify="right")
    for task, value in reference.rmse.items():
        cells = [task]
        for training in trained:
            cells.append(f"{training.rmse[task]:.4g}")
            if training is not reference:
                cells.append(f"{training.rmse[task] / value:.4f}")
        result.add_row(*cells)
    return result


def verdict(reference: Trained, other: Trained) -> str:
    """One sentence on one kind."""
    if identical(reference, other):
        return f"{other.kind}: the mean path is bit for bit that of {reference.kind}."
    worse = _tasks(reference, other, lambda a, b: b > a)
    if not worse:
        return f"{other.kind}: another mean path, in no task worse than {reference.kind}."
    return f"{other.kind}: another mean path, worse than {reference.kind} in {', '.join(worse)}."


def _tasks(a: Trained, b: Trained, holds: Callable[[float, float], bool]) -> list[str]:
    return [task for task, value in a.rmse.items() if holds(value, b.rmse[task])]


def as_json(trained: Sequence[Trained]) -> dict[str, Any]:
    """The report as JSON-serialisable values."""
    return {
        training.kind: {
            "rmse": dict(training.rmse),
            "mean_path_identical_to_mse": identical(trained[0], training),
        }
        for training in trained
    }
