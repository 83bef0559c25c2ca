"""Scale of every sigma and half width of the 68 % intervals, from held-out events.

Sigma: after s^2 = mean((y - mu)^2 / sigma^2) per task (METHODS, "Uncertainty", 2), but with the
68.27 % quantile of |y - mu| / sigma for s, which a few events far out do not move.
Interval: split-conformal quantile of |y - mu| / sigma (Angelopoulos & Bates, arXiv:2107.07511).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from xec.contract import ESTIMATES, GAMMA_ESTIMATES, SENSOR_ESTIMATES, Estimate
from xec.detector.geometry import Geometry
from xec.models.checkpoint import load_checkpoint, save_checkpoint
from xec.models.reconstructor import Reconstructor
from xec_training.data.batch import TrainingBatch
from xec_training.data.simulated import SimulatedSource, signal_simulation
from xec_training.data.source import EventSource
from xec_training.masking import Masked, hide

COVERAGE: Final = 0.6827  # of one standard deviation of a Gaussian


def conformal_quantile(scores: Tensor, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest score: at least `coverage` on exchangeable data."""
    n = len(scores)
    rank = min(n, math.ceil((n + 1) * coverage))
    return float(scores.sort().values[rank - 1])


@torch.no_grad()
def pulls(
    model: Reconstructor, batches: Iterable[TrainingBatch], names: Collection[str], seed: int
) -> dict[str, Tensor]:
    """|y - mu| / sigma per sigma of the contract; sensors: the hidden ones.

    Gamma tasks give (events, width); sensors (number of hidden sensors, 1).

    Args:
        model: in any mode; it is put into evaluation mode.
        batches: held-out events.
        names: the estimates that are wanted, such as `npho` or `energy`.
        seed: of the masks.
    """
    found: dict[str, list[Tensor]] = {}
    model.eval()
    rng: torch.Generator | None = None
    for batch in batches:
        rng = rng or torch.Generator(batch.npho.device).manual_seed(seed)
        masked = hide(batch, 0.0, rng)
        outputs = model(*masked.inputs)
        for estimate in ESTIMATES:
            if estimate.name in names:
                pull = _pull(estimate, outputs, batch, masked)
                found.setdefault(estimate.sigma_name, []).append(pull)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _pull(
    estimate: Estimate, outputs: dict[str, Tensor], batch: TrainingBatch, masked: Masked
) -> Tensor:
    mean = outputs[estimate.mean_name]
    error = getattr(batch, estimate.name).reshape(mean.shape) - mean
    pull: Tensor = (error / outputs[estimate.sigma_name]).abs()
    if estimate not in SENSOR_ESTIMATES:
        return pull[batch.has_truth]
    where = masked.hidden & batch.time_valid if estimate.name == "time" else masked.hidden
    return pull[where].unsqueeze(1)


def calibrate(
    model: Reconstructor,
    first: Iterable[TrainingBatch],
    second: Iterable[TrainingBatch],
    names: Collection[str],
    seed: int,
) -> dict[str, float]:
    """Set the model's sigma scales; returns the interval factors of the gamma's estimates.

    Split-conformal coverage needs scores that the scales have not seen, so that `first` sets the
    scales and `second` the intervals. What has no pulls at all stays as it is.
    """
    scales = dict(model.sigma_scale.named_buffers())
    for name, pull in pulls(model, first, names, seed).items():
        if len(pull):
            factor = torch.stack([torch.quantile(_thinned(c), COVERAGE) for c in pull.unbind(1)])
            scales[name].mul_(factor.to(scales[name]))
    fresh = pulls(model, second, names, seed + 1)
    return {
        e.name: conformal_quantile(fresh[e.sigma_name].flatten(), COVERAGE)
        for e in GAMMA_ESTIMATES
        if len(fresh.get(e.sigma_name, ()))
    }


def calibrate_checkpoint(
    folder: Path,
    geometry: Geometry,
    device: torch.device,
    validation: EventSource,
    events: int,
    seed: int,
) -> int:
    """Measure the sigma scales and intervals of the saved checkpoint and save it again.

    Args:
        folder: of the checkpoint, of stage inpaint or regress.
        geometry: of its training.
        device: where to compute.
        validation: held-out events; simulated ones give way to the signal that models are judged
            on.
        events: how many to use.
        seed: of the training.

    Returns:
        How many events there were.
    """
    model, checkpoint = load_checkpoint(folder, geometry, ("inpaint", "regress"))
    model.to(device)
    estimates = ESTIMATES if checkpoint.stage == "regress" else SENSOR_ESTIMATES
    batches = list(islice(_held_out(validation, geometry, device, events, seed), events))
    total = sum(map(len, batches))
    middle = max(1, len(batches) // 2)
    names = [e.name for e in estimates]
    scale = calibrate(model, batches[:middle], batches[middle:], names, seed + 11)
    training = {**checkpoint.training, "calibration_events": total}
    save_checkpoint(folder, model, replace(checkpoint, training=training, interval_scale=scale))
    return total


def _held_out(
    validation: EventSource, geometry: Geometry, device: torch.device, events: int, seed: int
) -> Iterator[TrainingBatch]:
    """At least two batches, `events` in all or as many as there are."""
    size = max(1, min(64, events // 2))
    if isinstance(validation, SimulatedSource):
        config = signal_simulation()
        yield from SimulatedSource(
            config, geometry, device, seed + 10, size, events, part="validation"
        ).batches()
        return
    left = events
    for batch in validation.batches():
        for start in range(0, min(len(batch), left), size):
            yield batch[start : min(start + size, left)]
        left -= len(batch)
        if left <= 0:
            return


def _thinned(values: Tensor, most: int = 1_000_000) -> Tensor:
    """At most `most` of the values, evenly taken: `torch.quantile` has a size limit."""
    return values[:: max(1, -(-len(values) // most))]
