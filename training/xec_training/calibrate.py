"""Scales of all sigmas, intervals and limits of a network, from held-out events.

In order: scales (`sigma_curves`), then, on events that these have not seen, the intervals
(`conformal`), the domain's threshold and the breakdown by dead light (`breakdown`), and at last a
report (`calibration_report`) on events that nothing has seen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from xec.contract import ESTIMATES, GAMMA_ESTIMATES, SENSOR_ESTIMATES
from xec.detector.geometry import Geometry
from xec.metrics.spread import ONE_SIGMA
from xec.models.calibration import SigmaScale
from xec.models.checkpoint import load_checkpoint, save_checkpoint
from xec.models.reconstructor import Reconstructor
from xec.reliability.domain import Domain
from xec.reliability.record import Reliability
from xec_training.breakdown import fit_dead_light, measure
from xec_training.calibration_report import CoverageRow, coverage_rows, false_alarms
from xec_training.calibration_sample import COLUMNS, Progress, Sample, collect, nobody
from xec_training.conformal import conformal_quantile, fit_intervals
from xec_training.data.source import EventSource
from xec_training.held_out import HeldOut, held_out_of
from xec_training.sigma_curves import Scales, fit_scales

LEAST_FOR_DOMAIN: Final = 100
"""Events that the threshold of the domain needs: one false alarm in a hundred."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured, and how well it holds on fresh events.

    Args:
        events: how many events there were in all parts.
        scales: of the sigmas; they are set in the network.
        interval_scale: per gamma estimate, half of the 68 % interval in units of sigma.
        reliability: intervals and limits.
        rows: the report on fresh events.
        false_alarms: share of fresh events that are called outside the domain; None without one.
    """

    events: int
    scales: Scales
    interval_scale: dict[str, float]
    reliability: Reliability
    rows: list[CoverageRow]
    false_alarms: float | None

    @property
    def sigma_curves(self) -> dict[str, Any]:
        """The curves as a checkpoint's description holds them."""
        return {name: curve.as_dict() for name, curve in self.scales.curves.items()}


def calibrate(
    model: Reconstructor,
    held_out: HeldOut,
    names: Collection[str],
    seed: int,
    geometry: Geometry,
    progress: Progress = nobody,
) -> Calibration:
    """Set the model's sigma scales, and measure what depends on them.

    Args:
        model: its scales are replaced.
        held_out: events that it has not learned from.
        names: the estimates that it has learned; without the gamma's there are no limits.
        seed: of masks, sensors that are drawn, and holes.
        geometry: of the training.
        progress: told of the events that are done.
    """
    done = 0

    def count(events: int) -> None:
        nonlocal done
        done += events
        progress(events)

    model.sigma_scale.reset()
    first = collect(model, held_out.part("scales"), names, seed, geometry, count)
    scales = fit_scales(first)
    apply_scales(model.sigma_scale, scales)
    second = collect(model, held_out.part("intervals"), names, seed + 1, geometry, count)
    fresh = collect(model, held_out.part("fresh"), names, seed + 2, geometry, count)
    events = done
    intervals = fit_intervals(second, seed + 3)
    reliability = Reliability(intervals)
    if set(names) >= set(COLUMNS):
        wide = collect(model, held_out.domain(), names, seed + 4, geometry, progress)
        broken = measure(model, held_out.with_holes(), geometry, seed + 5, progress)
        reliability = Reliability(intervals, _domain(second, wide), fit_dead_light(broken))
    return Calibration(
        events=events,
        scales=scales,
        interval_scale=_interval_scale(second),
        reliability=reliability,
        rows=coverage_rows(fresh, intervals, seed + 6),
        false_alarms=false_alarms(fresh.features, reliability.domain),
    )


def apply_scales(module: SigmaScale, scales: Scales) -> None:
    """Set the factors and curves of a network without any; what was not measured stays 1."""
    values = dict(zip([e.sigma_name for e in SENSOR_ESTIMATES], scales.sensors, strict=True))
    if scales.gamma is not None:
        values |= {e.sigma_name: scales.gamma[COLUMNS[e.name]] for e in GAMMA_ESTIMATES}
    for name, value in values.items():
        if np.isfinite(value).all():
            buffer = module.get_buffer(name)
            buffer.copy_(torch.as_tensor(value, dtype=buffer.dtype).reshape(buffer.shape))
    module.set_curves(scales.curves)


def _interval_scale(sample: Sample) -> dict[str, float]:
    if len(sample.error) == 0:
        return {}
    pull = np.abs(sample.pull)
    return {
        name: conformal_quantile(pull[:, columns].ravel(), ONE_SIGMA)
        for name, columns in COLUMNS.items()
    }


def _domain(signal: Sample, wide: Sample) -> Domain | None:
    """Of signal events and events like the training's alike."""
    features = np.concatenate([signal.features, wide.features])
    return Domain.fit(features) if len(features) >= LEAST_FOR_DOMAIN else None


def calibrate_checkpoint(
    folder: Path,
    geometry: Geometry,
    device: torch.device,
    validation: EventSource,
    events: int,
    seed: int,
    progress: Progress = nobody,
) -> Calibration:
    """Calibrate the saved checkpoint and save it again.

    Args:
        folder: of the checkpoint, of stage inpaint or regress.
        geometry: of its training.
        device: where to compute.
        validation: held-out events; simulated ones give way to the signal that models are judged
            on.
        events: how many to use.
        seed: of the training.
        progress: told of the events that are done.
    """
    model, checkpoint = load_checkpoint(folder, geometry, ("inpaint", "regress"))
    model.to(device)
    estimates = ESTIMATES if checkpoint.stage == "regress" else SENSOR_ESTIMATES
    held_out = held_out_of(validation, geometry, device, events, seed)
    names = [e.name for e in estimates]
    found = calibrate(model, held_out, names, seed + 11, geometry, progress)
    training = {**checkpoint.training, "calibration_events": found.events}
    described = replace(
        checkpoint,
        training=training,
        interval_scale=found.interval_scale,
        sigma_curves=found.sigma_curves,
        reliability=found.reliability.as_dict(),
    )
    save_checkpoint(folder, model, described)
    return found
