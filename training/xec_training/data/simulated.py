"""Training events that are simulated as they are needed, on the device of the training.

They are wider than the signal, so that its edges are inside. No pile-up: where the second gamma
is the brighter one, the truth of the first would dominate a squared error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor

from xec.detector.geometry import Geometry
from xec.errors import UsageError
from xec.simulation.generator import Generator, SimulationConfig
from xec.simulation.vertex import SourceConfig, angles_from_direction, draw_gammas
from xec_training.data.batch import TrainingBatch
from xec_training.data.resume import refuse_other_state
from xec_training.data.source import Part

TRAINING_ENERGY: Final = (12.0, 62.0)  # MeV, flat

MAX_RANKS: Final = 2048

TRUTH_SAMPLE: Final = 100_000  # gammas, for histograms


def training_simulation(energy: tuple[float, float] = TRAINING_ENERGY) -> SimulationConfig:
    """Physics of the training events: flat energies (MeV), a dead map per event."""
    return SimulationConfig(source=SourceConfig(energy=energy))


def signal_simulation(energy: tuple[float, float] = (52.8, 52.8)) -> SimulationConfig:
    """Physics of the events that models are judged on: 52.8 MeV, no pile-up."""
    return SimulationConfig(source=SourceConfig(energy=energy))


def stream_seed(seed: int, rank: int, part: Part) -> int:
    """Seed of one rank's random numbers in one part.

    torch seeds its generator on the CPU with the lowest 32 bits alone. These differ for all ranks
    and parts of any 2^20 seeds in a row.
    """
    return (2 * seed + (part == "validation")) * MAX_RANKS + rank


class SimulatedSource:
    """Fresh events in each epoch; every rank draws its own, in equally many batches.

    Args:
        config: physics.
        geometry: of the detector.
        device: where the events are simulated and left.
        seed: not negative.
        batch_size: events per batch; the last batch of an epoch may be smaller.
        events: in an epoch of all ranks, rounded up to a multiple of them; None: no epochs.
        rank: which of the `world` ranks this is.
        world: number of ranks.
        part: validation events are others than those of the training with the same seed.
    """

    synthetic: Final = True
    waited_s: Final = 0.0  # events are made, not waited for

    def __init__(
        self,
        config: SimulationConfig,
        geometry: Geometry,
        device: torch.device,
        seed: int,
        batch_size: int,
        events: int | None,
        rank: int = 0,
        world: int = 1,
        part: Part = "train",
    ) -> None:
        if not 0 <= rank < world <= MAX_RANKS:
            raise ValueError(f"rank {rank} of {world} ranks, of which there are {MAX_RANKS}")
        self.config, self.geometry, self.device = config, geometry, device
        self.seed, self.batch_size = seed, batch_size
        self.rank, self.world, self.part = rank, world, part
        self._share = None if events is None else -(-events // world)
        self._generator = self._fresh_generator()
        self._drawn = 0  # events of this epoch

    @property
    def batches_per_epoch(self) -> int | None:
        """Of each rank; None without epochs."""
        return None if self._share is None else -(-self._share // self.batch_size)

    @property
    def events_per_epoch(self) -> int | None:
        """Of all ranks together."""
        return None if self._share is None else self._share * self.world

    @property
    def description(self) -> dict[str, Any]:
        """Physics, seed and length of an epoch."""
        return {
            "kind": "simulated",
            "part": self.part,
            "seed": self.seed,
            "events_per_epoch": self.events_per_epoch,
            "simulation": asdict(self.config),
        }

    def next_batch(self) -> TrainingBatch:
        """Fresh events."""
        count = self.batch_size
        if self._share is not None:
            count = min(count, self._share - self._drawn)
            self._drawn = (self._drawn + count) % self._share
        return TrainingBatch.from_simulated(self._generator.sample(count))

    def batches(self) -> Iterator[TrainingBatch]:
        """The events of one epoch, the same ones each time: those that a new source gives first.

        Raises:
            UsageError: without epochs.
        """
        if self._share is None:
            raise UsageError("A pass over simulated events needs their number: sim:2000, not sim:.")
        generator = self._fresh_generator()
        for start in range(0, self._share, self.batch_size):
            count = min(self.batch_size, self._share - start)
            yield TrainingBatch.from_simulated(generator.sample(count))

    def truth(self) -> tuple[Tensor, Tensor]:
        """Energy (M,) and angle (M, 2) of a sample of gammas, drawn without their light."""
        rng = torch.Generator().manual_seed(stream_seed(self.seed, 0, self.part))
        gammas = draw_gammas(TRUTH_SAMPLE, self.config.source, rng)
        return gammas.energy, angles_from_direction(gammas.direction)

    def state_dict(self) -> dict[str, Any]:
        """The state of the random numbers, and how far in the epoch."""
        return {
            "source": self._identity(),
            "drawn": self._drawn,
            "generator": self._generator.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            UsageError: when it belongs to another source.
        """
        refuse_other_state(state, self._identity())
        self._drawn = state["drawn"]
        # A checkpoint may have been loaded onto a GPU; random states live on the host.
        random = {name: value.cpu() for name, value in state["generator"].items()}
        self._generator.load_state_dict(random)

    def close(self) -> None:
        """Nothing runs in the background."""

    def _fresh_generator(self) -> Generator:
        seed = stream_seed(self.seed, self.rank, self.part)
        return Generator(self.config, self.geometry, self.device, seed)

    def _identity(self) -> dict[str, int | str]:
        return {
            "kind": "simulated",
            "part": self.part,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "simulation": hashlib.sha256(repr(self.config).encode()).hexdigest()[:16],
            "rank": self.rank,
            "world": self.world,
            "events": self._share or 0,
        }
