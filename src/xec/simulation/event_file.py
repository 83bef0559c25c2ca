"""Simulated runs as files: the synthetic events of one run in the experiment's formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from xec.conditions.dead_list import read_dead_list
from xec.detector.geometry import parametric
from xec.errors import UsageError
from xec.event import EventBatch, Truth
from xec.io.events import open_event_writer
from xec.simulation.deadmap import TYPICAL_RUN
from xec.simulation.generator import (
    Generator,
    PileUpConfig,
    RunConditions,
    SimulatedBatch,
    SimulationConfig,
)
from xec.simulation.vertex import SourceConfig

CHUNK = 100  # events between two updates of the progress bar


@dataclass(frozen=True, slots=True)
class Request:
    """One run to simulate.

    Args:
        events: how many.
        out: the file to write.
        seed: of all random numbers.
        run: its number.
        energy: lowest and highest energy, MeV.
        dead_list: file of dead sensors; without it they are drawn.
        pileup: probability of a second gamma.
        device: ``cpu`` or ``cuda``.
    """

    events: int
    out: Path
    seed: int
    run: int
    energy: tuple[float, float]
    dead_list: Path | None
    pileup: float
    device: str


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.cpu().numpy()


def to_events(batch: SimulatedBatch, run: int, first_event: int) -> EventBatch:
    """A simulated batch as events with truth; dead sensors still hold their readings.

    Args:
        batch: on any device.
        run: run number of all events.
        first_event: number of the first event.
    """
    B = len(batch)
    return EventBatch(
        run=np.full(B, run, dtype=np.int64),
        event=np.arange(first_event, first_event + B, dtype=np.int64),
        npho=_array(batch.npho.masked_fill(~batch.npho_valid, 0.0)),
        time=_array(batch.time),
        npho_valid=batch.npho_valid.cpu().numpy(),
        time_valid=batch.time_valid.cpu().numpy(),
        truth=Truth(
            energy=_array(batch.energy),
            gamma_time=_array(batch.gamma_time),
            uvw=_array(batch.uvw),
            xyz=_array(batch.xyz),
            vertex=_array(batch.vertex),
            direction=_array(batch.direction),
            angle=_array(batch.angle),
        ),
    )


def _refuse_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device is cpu or cuda, not {device}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda needs a GPU that PyTorch can use; there is none here.")


def _run_conditions(generator: Generator, dead_list: Path | None) -> RunConditions:
    """The run's efficiency, gains and dead map; they do not depend on whether a list is given."""
    conditions = generator.draw_run()
    if dead_list is None:
        return conditions
    return conditions.with_dead(read_dead_list(dead_list).mask)


def write(request: Request) -> None:
    """Simulate a run and write its file, with progress on the error stream.

    Raises:
        UsageError: when the device is not there.
        ConditionsError: when the dead list cannot be read.
        FileError: when the file cannot be written.
    """
    _refuse_device(request.device)
    config = SimulationConfig(
        source=SourceConfig(energy=request.energy),
        dead=TYPICAL_RUN,
        pile_up=PileUpConfig(probability=request.pileup),
    )
    geometry = parametric()
    generator = Generator(config, geometry, request.device, request.seed)
    conditions = _run_conditions(generator, request.dead_list)
    dead = conditions.dead[0].cpu().numpy()
    console = Console(stderr=True)
    with open_event_writer(
        request.out, run=request.run, geometry_hash=geometry.hash, synthetic=True
    ) as writer:
        for first in track(range(0, request.events, CHUNK), "Simulating", console=console):
            batch = generator.sample(min(CHUNK, request.events - first), conditions)
            writer.write(to_events(batch, request.run, first), dead, _array(batch.npho))
