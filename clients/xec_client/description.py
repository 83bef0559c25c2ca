"""What a server says about the model that answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xec.lineage import Provenance
from xec.wire.codec import provenance_from_proto
from xec.wire.v1 import reconstruction_pb2 as pb


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A served model.

    Args:
        provenance: what the server's answers will name, its own dead list included.
        contract_version: of the tensors.
        dead_channels: sensors on the server's own dead list.
        metadata: what the model says about itself.
        dead_lists: where the list comes from of a request that carries none: ``own``, ``database``
            or ``none``.
    """

    provenance: Provenance
    contract_version: str
    dead_channels: int
    metadata: Mapping[str, str]
    dead_lists: str


def description_from_proto(message: pb.GetModelResponse) -> ModelDescription:
    """The description in an answer."""
    return ModelDescription(
        provenance=provenance_from_proto(message.provenance),
        contract_version=message.contract_version,
        dead_channels=message.dead_channels,
        metadata=dict(message.metadata),
        dead_lists=message.dead_lists,
    )
