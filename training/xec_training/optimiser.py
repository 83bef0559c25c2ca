"""Optimisers, and gradient clipping that keeps the loss faithful."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from xec.errors import UsageError
from xec_training import schedule

OptimiserName = Literal["adamw", "dadapt_adam", "schedule_free"]
Group = dict[str, Any]


def is_spread(name: str) -> bool:
    """Whether a parameter belongs to the path of the spreads: a module's name begins so."""
    return any(part.startswith("spread") for part in name.split("."))


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    scales: Mapping[str, float] | None = None,
) -> list[Group]:
    """Parameters by decay and by scale of the learning rate.

    Args:
        named_parameters: of the network.
        weight_decay: of matrices and kernels; biases, norms and single numbers do not decay.
        scales: factor of the learning rate by dotted prefix of the name; the longest one counts.

    Returns:
        Groups with `params`, `weight_decay` and `lr_scale`.

    Raises:
        UsageError: a prefix that begins no parameter's name.
    """
    scales = scales or {}
    unused = set(scales)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        prefixes = [p for p in scales if name == p or name.startswith(f"{p}.")]
        unused -= set(prefixes)
        scale = scales[max(prefixes, key=len)] if prefixes else 1.0
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((decay, scale), []).append(parameter)
    if unused:
        raise UsageError(
            f"A learning rate is scaled for {min(unused)}, which names no part of the network."
        )
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def build_optimiser(
    name: OptimiserName,
    groups: list[Group],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
) -> torch.optim.Optimizer:
    """An optimiser for `parameter_groups`.

    adamw: Loshchilov & Hutter, 2019. schedule_free: Defazio et al., 2024; it averages by itself,
    so no average of the weights goes on top. dadapt_adam: Defazio & Mishchenko, 2023; `lr` is a
    factor of the step size that it finds, 1.0 as a rule.

    Raises:
        UsageError: the optimiser's package is not installed.
    """
    optimiser: torch.optim.Optimizer
    match name:
        case "adamw":
            optimiser = torch.optim.AdamW(groups, lr=lr, betas=betas)
        case "schedule_free":
            package = _adaptive("schedulefree")
            optimiser = package.AdamWScheduleFree(groups, lr=lr, betas=betas)
        case "dadapt_adam":
            package = _adaptive("dadaptation")
            # The package prints a line for decouple=True.
            with contextlib.redirect_stdout(io.StringIO()):
                optimiser = package.DAdaptAdam(
                    [_layer_scaled(group) for group in groups], lr=lr, betas=betas, decouple=True
                )
    schedule.apply(optimiser, lr)
    return optimiser


def _layer_scaled(group: Group) -> Group:
    """A group for D-Adaptation, which wants one `lr` for all and a `layer_scale` of each.

    Its `layer_scale` does not reach the decoupled decay, which AdamW scales with the rate.
    """
    scale = group["lr_scale"]
    decay = group["weight_decay"] * scale
    return {**group, "lr_scale": 1.0, "layer_scale": scale, "weight_decay": decay}


def _adaptive(package: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UsageError(
            f"This optimiser needs the package {package}: pip install 'xec-reconstruct[adaptive]'."
        ) from None


def training_mode(optimiser: torch.optim.Optimizer) -> None:
    """Give the network the weights at which gradients are taken, where the optimiser has two."""
    if hasattr(optimiser, "train"):
        optimiser.train()


def evaluation_mode(optimiser: torch.optim.Optimizer) -> None:
    """Give the network the weights to validate and to save, where the optimiser has two."""
    if hasattr(optimiser, "eval"):
        optimiser.eval()


class GradientNorms(NamedTuple):
    """Norms before clipping, of the means' path and of the spreads'."""

    mean: float
    spread: float

    @property
    def finite(self) -> bool:
        """Whether both are numbers; if not, nothing was clipped and no step may be made."""
        return math.isfinite(self.mean) and math.isfinite(self.spread)


def clip_separately(
    parameters: Iterable[tuple[str, nn.Parameter]], max_norm: float
) -> GradientNorms:
    """Clip mean and spread gradients each to `max_norm`.

    One norm over both would let a large spread gradient shrink the mean's step and so break
    faithfulness (METHODS L4).
    """
    paths: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in parameters:
        if parameter.grad is not None:
            paths[is_spread(name)].append(parameter)
    totals = [_norm(path) for path in paths]
    norms = GradientNorms(*map(float, totals))
    if norms.finite:
        for path, total in zip(paths, totals, strict=True):
            clip_grads_with_norm_(path, max_norm, total)
    return norms


def _norm(path: list[nn.Parameter]) -> Tensor:
    return get_total_norm([p.grad for p in path if p.grad is not None])
