"""Scale of every sigma and half width of the 68 % intervals, from held-out events.

Sigma: after s^2 = mean((y - mu)^2 / sigma^2) per task (METHODS, "Uncertainty", 2), but with the
68.27 % quantile of |y - mu| / sigma for s, which a few events far out do not move.
Interval: split-conformal quantile of |y - mu| / sigma (Angelopoulos & Bates, arXiv:2107.07511).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from xec.contract import GAMMA_ESTIMATES
from xec.models.reconstructor import Reconstructor
from xec.simulation.generator import Generator
from xec_training.masking import hide

COVERAGE: Final = 0.6827  # of one standard deviation of a Gaussian


def conformal_quantile(scores: Tensor, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest score: at least `coverage` on exchangeable data."""
    n = len(scores)
    rank = min(n, math.ceil((n + 1) * coverage))
    return float(scores.sort().values[rank - 1])


@torch.no_grad()
def pulls(
    model: Reconstructor, source: Generator, events: int, seed: int, batch_size: int = 64
) -> dict[str, Tensor]:
    """|y - mu| / sigma of fresh events per sigma of the contract; sensors: the hidden ones.

    Gamma tasks give (events, width); sensors (number of hidden sensors, 1).
    """
    found: dict[str, list[Tensor]] = {}
    for name, pull in _batches(model.eval(), source, events, seed, batch_size):
        found.setdefault(name, []).append(pull)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _batches(
    model: Reconstructor, source: Generator, events: int, seed: int, batch_size: int
) -> Iterator[tuple[str, Tensor]]:
    masks = torch.Generator(source.device).manual_seed(seed)
    for start in range(0, events, batch_size):
        batch = source.sample(min(batch_size, events - start))
        masked = hide(batch, 0.0, masks)
        outputs = model(*masked.inputs)
        for estimate in GAMMA_ESTIMATES:
            mean = outputs[estimate.mean_name]
            error = getattr(batch, estimate.name).reshape(mean.shape) - mean
            yield estimate.sigma_name, (error / outputs[estimate.sigma_name]).abs()
        chosen = {"npho": masked.hidden, "time": masked.hidden & batch.time_valid}
        for name, where in chosen.items():
            error = getattr(batch, name) - outputs[f"{name}_mean"]
            yield f"{name}_sigma", (error / outputs[f"{name}_sigma"])[where].abs().unsqueeze(1)


def calibrate(model: Reconstructor, source: Generator, events: int, seed: int) -> dict[str, float]:
    """Set the model's sigma scales from fresh events; returns the interval factors.

    Half of the events set the scales, the other half the intervals: split-conformal coverage
    needs scores that the scales have not seen.
    """
    scales = dict(model.sigma_scale.named_buffers())
    for name, pull in pulls(model, source, events // 2, seed).items():
        factor = torch.stack([torch.quantile(_thinned(c), COVERAGE) for c in pull.unbind(1)])
        scales[name].mul_(factor.to(scales[name]))
    fresh = pulls(model, source, events - events // 2, seed + 1)
    return {
        e.name: conformal_quantile(fresh[e.sigma_name].flatten(), COVERAGE) for e in GAMMA_ESTIMATES
    }


def _thinned(values: Tensor, most: int = 1_000_000) -> Tensor:
    """At most `most` of the values, evenly taken: `torch.quantile` has a size limit."""
    return values[:: max(1, -(-len(values) // most))]
