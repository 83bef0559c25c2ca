"""What every engine offers: `infer` from the contract's inputs to its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xec.event import EventBatch
from xec.lineage import Provenance
from xec.reliability.record import Reliability

Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Identity of a loaded model, from its own metadata and the bytes that were loaded.

    `interval_scale` maps each estimate of the gamma to the factor by which sigma is multiplied
    to give half of its calibrated 68 % interval; `reliability` holds what is known beyond that.
    `engine` names what runs it: engines agree to rounding, not to the last bit. Two are equal that
    were loaded from the same bytes, in which `reliability` stands as well.
    """

    name: str
    version: str
    sha256: str
    geometry_hash: str
    contract_version: str
    metadata: Mapping[str, str]
    interval_scale: Mapping[str, float]
    reliability: Reliability = field(default_factory=Reliability, compare=False)
    engine: str = ""


class Engine(Protocol):
    """A model that runs. `infer` may be called from several threads at once."""

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        ...

    def infer(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run B events: arrays of the contract's inputs to arrays of its outputs.

        Raises:
            EngineError: when the engine fails; the inputs are known to be valid.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def provenance_of(model: ModelInfo, dead_list_id: str = "") -> Provenance:
    """What the answers of a model say of their origin."""
    return Provenance(
        model.name,
        model.version,
        model.sha256,
        model.geometry_hash,
        dead_list_id,
        engine=model.engine,
    )


def tensors_of(batch: EventBatch) -> dict[str, NDArray[np.generic]]:
    """The contract's input tensors of a batch."""
    return {
        "npho": np.ascontiguousarray(batch.npho, dtype=np.float32),
        "time": np.ascontiguousarray(batch.time, dtype=np.float32),
        "npho_valid": batch.npho_valid.astype(np.uint8),
        "time_valid": batch.time_valid.astype(np.uint8),
    }
