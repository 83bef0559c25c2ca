"""The answer to an event: what the model says, what is to be known before using it, and repairs.

Server, client and display answer by the same functions, and so alike to the last bit. A model
that was never told its limits (`xec.reliability`) answers without the flags that need them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from xec.assembly import Outputs, assemble_one, is_finite
from xec.detector.geometry import Geometry, parametric
from xec.engines.base import ModelInfo
from xec.errors import EngineError
from xec.event import Event, EventBatch, Flag, Reconstruction, Recovered, RecoveryStatus
from xec.lineage import Provenance
from xec.recovery.filling import fill
from xec.reliability.dead_light import DeadLight, hidden_share, holes
from xec.reliability.domain import features_of


def answer_one(
    event: Event, outputs: Outputs, row: int, provenance: Provenance, model: ModelInfo
) -> Reconstruction:
    """The answer to one event from row `row` of a model's outputs.

    Where too much light falls into a hole of dead sensors, those in and around it get the answer
    of the solid-angle method (`RecoveryStatus.BASELINE`).

    Args:
        event: as it was given to the model.
        outputs: tensors of the contract, each (B, width), all of them numbers.
        row: which of the B rows belongs to `event`.
        provenance: recorded in the answer.
        model: which one answered.
    """
    known = model.reliability
    reconstruction = assemble_one(
        event, outputs, row, provenance, model.interval_scale, known.intervals
    )
    geometry = _geometry(model.geometry_hash)
    if geometry is None:  # nobody has told where its sensors are
        return reconstruction
    flags, recovered = reconstruction.flags, reconstruction.recovered
    if known.domain is not None:
        features = features_of(event, outputs, row, geometry)
        if known.domain.is_outside(features):
            flags |= Flag.OUTSIDE_DOMAIN
    if known.dead_light is not None:
        share = hidden_share(event.npho_valid, outputs["npho_mean"][row])
        if known.dead_light.is_too_much(share):
            flags |= Flag.TOO_MUCH_DEAD_LIGHT
            recovered = with_baseline(event, recovered, known.dead_light, geometry)
    return replace(reconstruction, flags=flags, recovered=recovered)


def answer(
    batch: EventBatch, outputs: Outputs, provenance: Provenance, model: ModelInfo
) -> list[Reconstruction]:
    """`answer_one` for each event of a batch.

    Raises:
        EngineError: the model's answer to an event is not finite.
    """
    for row in range(len(batch)):
        if not is_finite(outputs, row):
            raise EngineError(
                f"The model's answer to event {batch.event[row]} of run {batch.run[row]} is not "
                "finite: leave the event out, and report it with the model's version."
            )
    return [answer_one(event, outputs, row, provenance, model) for row, event in enumerate(batch)]


def with_baseline(
    event: Event, recovered: Recovered, dead_light: DeadLight, geometry: Geometry
) -> Recovered:
    """The same sensors, those of the holes filled by the solid-angle method.

    Sensors for which the method knows nothing keep what the network says, as its status tells.

    Args:
        event: as it was given to the model.
        recovered: filled by the network.
        dead_light: knows how well the method does in holes.
        geometry: positions of the sensors.
    """
    filling = fill(
        event.npho[None],
        event.time[None],
        event.npho_valid[None],
        event.time_valid[None],
        geometry,
    )
    npho, time = (values[0].astype(np.float32)[recovered.channel] for values in filling)
    chosen = holes(event.npho_valid)[recovered.channel] & np.isfinite(npho)
    timed = chosen & np.isfinite(time)
    return Recovered(
        channel=recovered.channel,
        npho=np.where(chosen, npho, recovered.npho),
        npho_sigma=np.where(
            chosen, dead_light.sigma_of(npho).astype(np.float32), recovered.npho_sigma
        ),
        time=np.where(timed, time, recovered.time),
        time_sigma=np.where(timed, np.float32(dead_light.time_sigma), recovered.time_sigma),
        status=np.where(chosen, np.uint8(RecoveryStatus.BASELINE), recovered.status),
    )


@lru_cache(maxsize=4)
def _geometry(geometry_hash: str) -> Geometry | None:
    """The geometry of a hash, if it is the one that this program can build."""
    return parametric() if geometry_hash == parametric().hash else None
