"""Held-out events in three parts that never mix: for the scales, the intervals, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import torch

from xec.detector.geometry import Geometry
from xec_training.data.batch import TrainingBatch
from xec_training.data.simulated import SimulatedSource, signal_simulation
from xec_training.data.source import EventSource

Purpose = Literal["scales", "intervals", "fresh"]

DEALT: Final[tuple[Purpose, ...]] = ("scales", "intervals", "scales", "intervals", "fresh")
"""Whose the batches are, in turn."""

LARGEST_BATCH: Final = 64
FILE_BATCH: Final = 16  # the number of events of a file's part is known at its end only

DOMAIN_SHARE: Final = 5  # one event like the training's for so many of the held-out ones
HOLES_SHARE: Final = 10  # the same for events with holes


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Events that the network has not learned from.

    Args:
        signal: one pass over the events that models are judged on, the same ones each time.
        domain: further events like the training's; none where `signal` is like them.
        holes: how many of the events are looked at again with holes of dead sensors.
        expected: how many events there will be in all passes, for a progress bar.
    """

    signal: Callable[[], Iterator[TrainingBatch]]
    domain: Callable[[], Iterator[TrainingBatch]]
    holes: int
    expected: int

    def part(self, purpose: Purpose) -> Iterator[TrainingBatch]:
        """The batches of one purpose."""
        for number, batch in enumerate(self.signal()):
            if DEALT[number % len(DEALT)] == purpose:
                yield batch

    def with_holes(self) -> Iterator[TrainingBatch]:
        """Events of the intervals' part, as many as `holes` asks for."""
        left = self.holes
        for batch in self.part("intervals"):
            if left <= 0:
                return
            yield batch[: min(len(batch), left)]
            left -= len(batch)


def held_out_of(
    validation: EventSource, geometry: Geometry, device: torch.device, events: int, seed: int
) -> HeldOut:
    """At least two batches, `events` in all or as many as there are.

    Args:
        validation: held-out events; simulated ones give way to the signal that models are judged
            on, and stand for the domain of the training.
        geometry: of the training.
        device: where to compute.
        events: how many are wanted.
        seed: of simulated events.
    """
    size = max(1, min(LARGEST_BATCH, events // len(DEALT)))
    holes = events // HOLES_SHARE
    if not isinstance(validation, SimulatedSource):
        size = min(size, FILE_BATCH)
        return HeldOut(lambda: _cut(validation, size, events), lambda: iter(()), holes, events)
    count = max(1, events // DOMAIN_SHARE)
    signal, domain = (
        SimulatedSource(config, geometry, device, source_seed, size, wanted, part="validation")
        for config, source_seed, wanted in (
            (signal_simulation(), seed + 10, events),
            (validation.config, seed + 12, count),
        )
    )
    return HeldOut(signal.batches, domain.batches, holes, events + count + holes)


def _cut(source: EventSource, size: int, events: int) -> Iterator[TrainingBatch]:
    left = events
    for batch in source.batches():
        for start in range(0, min(len(batch), left), size):
            yield batch[start : min(start + size, left)]
        left -= len(batch)
        if left <= 0:
            return
