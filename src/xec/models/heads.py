"""Heads: dense ones for every sensor, and those of the gamma, each with mean and spread.

The spread never shapes the features: its path starts from a detached copy (METHODS L2), so the
mean is the one that a plain squared error would train. Log sigmas are bounded smoothly (L6).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_SIGMA_BOUND: Final = 7.0


def bounded(raw: Tensor) -> Tensor:
    """Smoothly bounded log sigma, within +-LOG_SIGMA_BOUND, in float32."""
    return LOG_SIGMA_BOUND * torch.tanh(raw.float() / LOG_SIGMA_BOUND)


class SensorHead(nn.Module):
    """Two values (root count, time) for each of the sensors of a cell, with log sigmas.

    Args:
        channels: features per cell.
        sensors: sensors per cell.
    """

    def __init__(self, channels: int, sensors: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mean_hidden = nn.Linear(channels, 2 * channels)
        self.mean = nn.Linear(2 * channels, 2 * sensors)
        self.spread_hidden = nn.Linear(channels, channels)
        self.spread = nn.Linear(channels, 2 * sensors)
        for last in (self.mean, self.spread):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (..., C) to means and bounded log sigmas, each (..., 2 * sensors), float32."""
        x = self.norm(x)
        mean = self.mean(functional.gelu(self.mean_hidden(x)))
        spread = self.spread(functional.gelu(self.spread_hidden(x.detach())))
        return mean.float(), bounded(spread)


class GammaHead(nn.Module):
    """Corrections to the conventional estimates of the gamma, and their log sigmas.

    Args:
        features: width of the input.
        hidden: width of the two hidden layers.
        outputs: numbers to estimate.
    """

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.mean = _perceptron(features, hidden, outputs)
        self.spread = _perceptron(features, hidden, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, features) to means and bounded log sigmas, each (B, outputs), float32."""
        return self.mean(x).float(), bounded(self.spread(x.detach()))


def _perceptron(features: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.LayerNorm(features),
        nn.Linear(features, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        last,
    )
