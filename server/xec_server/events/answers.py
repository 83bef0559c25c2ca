"""The message that answers an event."""

from __future__ import annotations

from dataclasses import replace

from xec.answer import answer_one
from xec.assembly import Outputs
from xec.engines.base import ModelInfo
from xec.event import Event
from xec.lineage import Provenance
from xec.wire.codec import reconstruction_to_proto
from xec.wire.v1 import reconstruction_pb2 as pb


def answer_to(
    event: Event, provenance: Provenance, outputs: Outputs, row: int, model: ModelInfo
) -> pb.ReconstructResponse:
    """The message for one event.

    Args:
        event: as it was given to the model.
        provenance: of the answer, but for what ran the model.
        outputs: tensors of the contract, each (B, width); those of the event are numbers.
        row: of the event.
        model: which one answered; the fall-back is another one than was asked.
    """
    if provenance.engine != model.engine:
        provenance = replace(provenance, engine=model.engine)
    return reconstruction_to_proto(answer_one(event, outputs, row, provenance, model))
