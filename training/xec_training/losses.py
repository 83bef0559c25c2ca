"""Losses: the faithful heteroscedastic pair of a squared error and a likelihood of the spread.

Source: Stirn et al., AISTATS 2023. The mean is trained by the plain squared error and the spread
by the Gaussian likelihood around the stopped mean, so the mean is that of a homoscedastic model
(METHODS L1). Sums and weights are kept apart and divided once, so that unequal masks count right.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """A weighted sum and the sum of its weights; `mean` divides once."""

    total: Tensor
    weight: Tensor

    def mean(self) -> Tensor:
        """Weighted mean; 0 where nothing has weight."""
        return self.total / self.weight.clamp(min=1e-9)


def squared_error(mean: Tensor, target: Tensor, weight: Tensor) -> Term:
    """Half of the weighted squared error (Stirn's mean term, unit variance)."""
    return Term((0.5 * weight * (target - mean).square()).sum(), weight.sum())


def spread_likelihood(mean: Tensor, log_sigma: Tensor, target: Tensor, weight: Tensor) -> Term:
    """Gaussian negative log likelihood of `target` around the stopped mean."""
    pull2 = (target - mean.detach()).square() * torch.exp(-2.0 * log_sigma)
    return Term((weight * (log_sigma + 0.5 * pull2)).sum(), weight.sum())


def faithful(
    mean: Tensor, log_sigma: Tensor, target: Tensor, weight: Tensor, unit: float = 1.0
) -> Tensor:
    """Faithful loss, averaged over `weight`; the squared error counts in units of `unit`."""
    centre = squared_error(mean / unit, target / unit, weight).mean()
    return centre + spread_likelihood(mean, log_sigma, target, weight).mean()
