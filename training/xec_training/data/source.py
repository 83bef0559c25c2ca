"""What a training loop asks of a source of events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

from torch import Tensor

from xec_training.data.batch import TrainingBatch

Part = Literal["train", "validation"]


class EventSource(Protocol):
    """Events without end, epoch after epoch, for one of several ranks.

    A source that loads the state of another one of the same making gives, bit for bit on a CPU,
    the batches that the other would have given next. A state consists of dictionaries, lists,
    tensors, numbers and strings. Every rank has its own.
    """

    @property
    def batches_per_epoch(self) -> int | None:
        """Of each rank; None where an epoch has no length."""

    @property
    def events_per_epoch(self) -> int | None:
        """Of all ranks together."""

    @property
    def synthetic(self) -> bool:
        """Whether any of the events are simulated."""

    @property
    def description(self) -> dict[str, Any]:
        """Where the events come from, for the model's provenance; fit for JSON."""

    @property
    def waited_s(self) -> float:
        """Seconds that `next_batch` has waited for events to be read."""

    def next_batch(self) -> TrainingBatch:
        """The next events, on the source's device."""

    def batches(self) -> Iterator[TrainingBatch]:
        """One pass over the rank's events, the same ones in the same order each time."""

    def truth(self) -> tuple[Tensor, Tensor]:
        """Energy (M,) and angle (M, 2) of the events, or of a sample; the same on all ranks."""

    def state_dict(self) -> dict[str, Any]:
        """Where the source stands after the last batch that it gave."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""

    def close(self) -> None:
        """End what runs in the background; nothing is read afterwards."""
