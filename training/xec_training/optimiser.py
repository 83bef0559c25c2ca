"""AdamW with decay on matrices only, and gradient clipping that keeps the loss faithful."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from xec_training.config import TrainingConfig


def is_spread(name: str) -> bool:
    """Whether a parameter belongs to the path of the spreads."""
    return ".spread" in name


def build_optimiser(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019); biases, norms and single numbers do not decay."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95))


def clip_separately(
    parameters: Iterable[tuple[str, nn.Parameter]], max_norm: float
) -> tuple[float, float]:
    """Clip mean and spread gradients each to `max_norm`; returns their norms before.

    One norm over both would let a large spread gradient shrink the mean's step and so break
    faithfulness (METHODS L4).
    """
    named = list(parameters)
    mean = [p for name, p in named if not is_spread(name)]
    spread = [p for name, p in named if is_spread(name)]
    norms = [float(nn.utils.clip_grad_norm_(group, max_norm)) for group in (mean, spread)]
    return norms[0], norms[1]
