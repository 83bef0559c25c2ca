"""From a model's output tensors to reconstructions: dead sensors filled, live ones untouched."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from xec.contract import GAMMA_ESTIMATES
from xec.detector.coordinates import inside_fiducial
from xec.errors import EngineError
from xec.event import (
    Event,
    EventBatch,
    Flag,
    FloatArray,
    GammaEstimate,
    Reconstruction,
    Recovered,
    RecoveryStatus,
)
from xec.lineage import Provenance
from xec.reliability.intervals import Intervals

Outputs = Mapping[str, NDArray[np.float32]]


def is_finite(outputs: Outputs, row: int) -> bool:
    """Whether all that the model says about event `row` is a number."""
    return all(bool(np.isfinite(values[row]).all()) for values in outputs.values())


def finite_rows(outputs: Outputs) -> NDArray[np.bool_]:
    """`is_finite` of every event at once, (B,)."""
    rows = [np.isfinite(values).all(axis=1) for values in outputs.values()]
    return np.asarray(np.logical_and.reduce(rows))


def recovered_sensors(event: Event, outputs: Outputs, row: int) -> Recovered:
    """The sensors of `event` without a valid count, with row `row` of the outputs."""
    channel = np.flatnonzero(~event.npho_valid).astype(np.int32)
    return Recovered(
        channel=channel,
        npho=outputs["npho_mean"][row].take(channel),
        npho_sigma=outputs["npho_sigma"][row].take(channel),
        time=outputs["time_mean"][row].take(channel),
        time_sigma=outputs["time_sigma"][row].take(channel),
        status=np.full(len(channel), RecoveryStatus.INPAINTED, dtype=np.uint8),
    )


def filled_npho(event: Event, recovered: Recovered) -> FloatArray:
    """Counts of all sensors (4760,): live ones bit-identical, recovered ones filled."""
    filled = event.npho.copy()
    filled[recovered.channel] = recovered.npho
    return filled


def _gamma(
    outputs: Outputs, row: int, interval_scale: Mapping[str, float], intervals: Intervals | None
) -> dict[str, GammaEstimate]:
    estimates = {}
    depth = float(outputs["uvw"][row, 2])
    for estimate in GAMMA_ESTIMATES:
        mean = outputs[estimate.mean_name][row]
        sigma = outputs[estimate.sigma_name][row]
        binned = None if intervals is None else intervals.gamma_scale(estimate.name, depth)
        scale = interval_scale.get(estimate.name, 1.0) if binned is None else binned
        half = sigma * np.asarray(scale, dtype=np.float32)
        estimates[estimate.name] = GammaEstimate(mean, sigma, mean - half, mean + half)
    return estimates


def assemble_one(
    event: Event,
    outputs: Outputs,
    row: int,
    provenance: Provenance,
    interval_scale: Mapping[str, float],
    intervals: Intervals | None = None,
) -> Reconstruction:
    """The reconstruction of one event from row `row` of a model's outputs.

    Args:
        event: as it was given to the model.
        outputs: tensors of the contract, each (B, width).
        row: which of the B rows belongs to `event`.
        provenance: recorded in the answer.
        interval_scale: per gamma estimate, half of the 68 % interval in units of sigma.
        intervals: the same in bins of depth, where it was measured so.
    """
    gamma = _gamma(outputs, row, interval_scale, intervals)
    inside = bool(inside_fiducial(gamma["uvw"].mean))
    return Reconstruction(
        run=event.run,
        event=event.event,
        recovered=recovered_sensors(event, outputs, row),
        flags=Flag.NONE if inside else Flag.OUTSIDE_FIDUCIAL,
        provenance=provenance,
        **gamma,
    )


def assemble(
    batch: EventBatch,
    outputs: Outputs,
    provenance: Provenance,
    interval_scale: Mapping[str, float],
) -> list[Reconstruction]:
    """`assemble_one` for each event of a batch.

    Raises:
        EngineError: the model's answer to an event is not finite.
    """
    reconstructions = []
    for row, event in enumerate(batch):
        if not is_finite(outputs, row):
            raise EngineError(
                f"The model's answer to event {event.event} of run {event.run} is not finite: "
                "leave the event out, and report it with the model's version."
            )
        reconstructions.append(assemble_one(event, outputs, row, provenance, interval_scale))
    return reconstructions
