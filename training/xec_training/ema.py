"""Exponential moving average of the weights, with a warm-up for short trainings.

Source: Polyak & Juditsky 1992; the decay starts at min(decay, (1 + n) / (10 + n)).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def warmed_decay(decay: float, updates: int) -> float:
    """Decay after `updates` updates."""
    return min(decay, (1.0 + updates) / (10.0 + updates))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An averaged copy of `model`; call `update_parameters` once per optimiser step.

    The first update copies the weights, every update copies the buffers. `state_dict` holds the
    count of updates, so a resumed average goes on with its decay.
    """

    def update(
        average: list[Tensor] | tuple[Tensor, ...],
        live: list[Tensor] | tuple[Tensor, ...],
        count: Tensor | int,
    ) -> None:
        rate = 1.0 - warmed_decay(decay, int(count))
        torch._foreach_lerp_(average, live, rate)

    return AveragedModel(model, multi_avg_fn=update)
