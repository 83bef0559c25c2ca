"""Heads: dense ones for every sensor, and those of the gamma, each with mean and spread.

The two paths of a head share nothing but their input, and the spread's input is given on its own:
a detached copy of the features (the default), the features themselves, or those of an encoder of
its own (METHODS L2). Log sigmas are bounded smoothly (L6). All outputs are float32 or better.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.precision import at_least_float32

LOG_SIGMA_BOUND: Final = 7.0


def bounded(raw: Tensor) -> Tensor:
    """Smoothly bounded log sigma, within +-LOG_SIGMA_BOUND, in float32."""
    return LOG_SIGMA_BOUND * torch.tanh(at_least_float32(raw) / LOG_SIGMA_BOUND)


class SensorHead(nn.Module):
    """Values for each of the sensors of a cell, and log sigmas.

    Args:
        channels: features per cell.
        sensors: sensors per cell.
        hints: guesses per sensor that the head sees beside the features.
        means: values per sensor.
        spreads: log sigmas per sensor.
    """

    def __init__(self, channels: int, sensors: int, hints: int, means: int, spreads: int) -> None:
        super().__init__()
        features = channels + sensors * hints
        self.norm = nn.LayerNorm(channels)
        self.mean_hidden = nn.Linear(features, 2 * channels)
        self.mean = nn.Linear(2 * channels, means * sensors)
        self.spread_norm = nn.LayerNorm(channels)
        self.spread_hidden = nn.Linear(features, channels)
        self.spread = nn.Linear(channels, spreads * sensors)
        for last in (self.mean, self.spread):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, x: Tensor, hints: Tensor, spread_x: Tensor, spread_hints: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cells (..., C) and hints (..., sensors * hints), for each path, to means, log sigmas."""
        x = torch.cat([self.norm(x), hints], dim=-1)
        mean = self.mean(functional.gelu(self.mean_hidden(x)))
        y = torch.cat([self.spread_norm(spread_x), spread_hints], dim=-1)
        spread = self.spread(functional.gelu(self.spread_hidden(y)))
        return at_least_float32(mean), bounded(spread)


class GammaHead(nn.Module):
    """Corrections to the conventional estimates of the gamma, and their log sigmas.

    Args:
        features: width of the input.
        hidden: width of the two hidden layers.
        means: numbers to estimate.
        spreads: how many of them, from the first, have a log sigma.
    """

    def __init__(self, features: int, hidden: int, means: int, spreads: int) -> None:
        super().__init__()
        self.mean = _perceptron(features, hidden, means)
        self.spread = _perceptron(features, hidden, spreads)

    def forward(self, x: Tensor, spread_x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, features), for each path, to means and bounded log sigmas."""
        return at_least_float32(self.mean(x)), bounded(self.spread(spread_x))


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
