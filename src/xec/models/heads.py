"""Heads: dense ones for every sensor, and those of the gamma, each with mean and spread.

The spread never shapes the features: its path starts from a detached copy (METHODS L2), so the
mean is the one that a plain squared error would train. Log sigmas are bounded smoothly (L6).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.precision import at_least_float32

LOG_SIGMA_BOUND: Final = 7.0
MEANS: Final = 3  # per sensor: root count, time, trust in the point source
SPREADS: Final = 2  # per sensor: root count, time
HINTS: Final = 2  # per sensor: the neighbours' mean and the point source


def bounded(raw: Tensor) -> Tensor:
    """Smoothly bounded log sigma, within +-LOG_SIGMA_BOUND, in float32."""
    return LOG_SIGMA_BOUND * torch.tanh(at_least_float32(raw) / LOG_SIGMA_BOUND)


class SensorHead(nn.Module):
    """Three values for each of the sensors of a cell, and two log sigmas.

    The values: correction of the root count, correction of the time, and the logit of the trust
    in the point-source guess. The log sigmas: of root count and time.

    Args:
        channels: features per cell.
        sensors: sensors per cell.
        hints: guesses per sensor that the head sees beside the features.
    """

    def __init__(self, channels: int, sensors: int, hints: int) -> None:
        super().__init__()
        features = channels + sensors * hints
        self.norm = nn.LayerNorm(channels)
        self.mean_hidden = nn.Linear(features, 2 * channels)
        self.mean = nn.Linear(2 * channels, MEANS * sensors)
        self.spread_hidden = nn.Linear(features, channels)
        self.spread = nn.Linear(channels, SPREADS * sensors)
        for last in (self.mean, self.spread):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (..., C) and hints (..., sensors * hints) to means and log sigmas, float32."""
        x = torch.cat([self.norm(x), hints], dim=-1)
        mean = self.mean(functional.gelu(self.mean_hidden(x)))
        spread = self.spread(functional.gelu(self.spread_hidden(x.detach())))
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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, features) to means and bounded log sigmas, float32."""
        return at_least_float32(self.mean(x)), bounded(self.spread(x.detach()))


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
