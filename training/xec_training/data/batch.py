"""One batch of training events on one device, whatever its origin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xec.event import EventBatch, Truth
from xec.io.root_columns import EventChunk
from xec.simulation.generator import SimulatedBatch


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """B events with everything a loss may need; no marker and no NaN anywhere.

    A reading is known where its validity bit is set, which includes dead sensors whose reading
    the simulation tells; whatever is not known holds 0. Dead sensors are never shown to the
    network (`xec_training.masking`).
    """

    npho: Tensor  # (B, 4760) photons, readings
    light: Tensor  # (B, 4760) photons, what the mean learns: the expected light or the reading
    time: Tensor  # (B, 4760) ns
    npho_valid: Tensor  # (B, 4760) bool, the reading is known
    time_valid: Tensor  # (B, 4760) bool, the time is known and means something
    dead: Tensor  # (B, 4760) bool
    energy: Tensor  # (B,) MeV
    gamma_time: Tensor  # (B,) ns, same zero as `time`
    uvw: Tensor  # (B, 3) cm
    angle: Tensor  # (B, 2) degrees, theta and phi
    has_truth: Tensor  # (B,) bool, whether the four fields above are known; else they are 0
    weight: Tensor  # (B,) of the event in the gamma tasks

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """The events `rows`, a slice or a tensor of indices (or of bits)."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Self:
        """The same batch on another device; copies from pinned memory to a GPU do not block."""
        # The other way round, the host would read the copy before it is there.
        ahead = device.type == "cuda"
        return self._each(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pinned(self) -> Self:
        """The same batch in memory from which a GPU can copy while the host goes on."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """Batches one after the other; at least one, all on one device."""
        if len(batches) == 1:
            return batches[0]
        return cls(*(torch.cat([getattr(b, f.name) for b in batches]) for f in fields(cls)))

    @classmethod
    def from_simulated(cls, batch: SimulatedBatch) -> Self:
        """Simulated events: truth everywhere, the expected light, readings of dead sensors."""
        one = torch.ones_like(batch.energy)
        return cls(
            npho=batch.npho.masked_fill(~batch.npho_valid, 0.0),
            light=batch.light,
            time=batch.time,
            npho_valid=batch.npho_valid,
            time_valid=batch.time_valid,
            dead=batch.dead,
            energy=batch.energy,
            gamma_time=batch.gamma_time,
            uvw=batch.uvw,
            angle=batch.angle,
            has_truth=one.bool(),
            weight=one,
        )

    @classmethod
    def from_chunk(cls, chunk: EventChunk) -> Self:
        """Events of a file, on the CPU.

        What dead sensors would have read is known where the file tells it, their times never.
        The expected light is in no file, so the reading stands for it.
        """
        events = chunk.events
        dead = np.zeros_like(events.npho_valid) if chunk.dead is None else chunk.dead
        npho, npho_valid = events.npho, events.npho_valid
        if chunk.npho_reference is not None:
            npho = np.where(dead, chunk.npho_reference, npho)
            npho_valid = npho_valid | dead
        readings = _tensor(npho)
        return cls(
            npho=readings,
            light=readings,
            time=_tensor(events.time),
            npho_valid=_tensor(npho_valid),
            time_valid=_tensor(events.time_valid),
            dead=_tensor(dead),
            **_truth(events),
            weight=torch.ones(len(events)),
        )


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _truth(events: EventBatch) -> dict[str, Tensor]:
    B, truth = len(events), events.truth
    if truth is None:
        none, one = np.zeros(B, dtype=np.float32), np.zeros((B, 3), dtype=np.float32)
        truth = Truth(none, none, one, one, one, one, one[:, :2])
    return {
        "energy": _tensor(truth.energy),
        "gamma_time": _tensor(truth.gamma_time),
        "uvw": _tensor(truth.uvw),
        "angle": _tensor(truth.angle),
        "has_truth": torch.full((B,), events.truth is not None),
    }
