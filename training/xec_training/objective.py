"""The training's objective: every task's faithful loss, weighted and added up.

On simulated events the means learn the expected light, which has the same expectation as the
reading but none of its noise; the spreads learn the reading (METHODS, "Uncertainty"). Sensors
that the network itself expects to be bright count more, in proportion to their root count: half
way from relative to absolute errors. The weight comes from the prediction, not from the target,
which would bias the mean.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from xec.models.frontend import root_of_npho
from xec.models.reconstructor import Prediction
from xec.simulation.generator import SimulatedBatch
from xec_training.config import LossWeights
from xec_training.losses import faithful, spread_likelihood, squared_error
from xec_training.masking import Masked

TIME_LIGHT: Final = 1000.0  # photons at which a sensor's time has full weight
BRIGHT_ROOT: Final = 4.0  # root count (30 photons) above which a sensor counts more
GAMMA_TASKS: Final = ("energy", "gamma_time", "uvw", "angle")


def task_losses(
    prediction: Prediction, batch: SimulatedBatch, masked: Masked, weights: LossWeights
) -> dict[str, Tensor]:
    """Weighted loss of each task; their sum is the objective."""
    losses = _sensor_losses(prediction, batch, masked, weights)
    one = torch.ones((), device=batch.energy.device)
    for task in GAMMA_TASKS:
        mean = getattr(prediction, task)
        target = getattr(batch, task).reshape(mean.shape)
        log_sigma = getattr(prediction, f"{task}_log_sigma")
        unit = getattr(weights, f"{task}_unit")
        loss = faithful(mean, log_sigma, target, one.expand_as(mean), unit)
        losses[task] = getattr(weights, task) * loss
    return losses


def _sensor_losses(
    prediction: Prediction, batch: SimulatedBatch, masked: Masked, weights: LossWeights
) -> dict[str, Tensor]:
    light, reading = root_of_npho(batch.light), root_of_npho(batch.npho)
    hidden, live = masked.hidden.float(), masked.live.float()
    emphasis = (prediction.root.detach() / BRIGHT_ROOT).clamp(min=1.0)
    filled = squared_error(prediction.root, light, hidden * emphasis).mean()
    kept = squared_error(prediction.root, light, live).mean()
    spread = spread_likelihood(
        prediction.root, prediction.root_log_sigma, reading, hidden + 0.02 * live
    ).mean()
    timed = (batch.time_valid & (masked.hidden | masked.live)).float()
    timed = timed * (batch.light / TIME_LIGHT).clamp(max=1.0) * (0.1 + 0.9 * hidden)
    when = faithful(
        prediction.time, prediction.time_log_sigma, batch.time, timed, weights.time_unit
    )
    return {
        "masked": weights.masked * (filled + spread),
        "live": weights.live * kept,
        "time": weights.time * when,
    }
