"""Simulated events and a model that knows their light, for the flags of an answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from xec.detector.channels import INNER_GRID, N_CHANNELS
from xec.detector.geometry import parametric
from xec.engines.base import ModelInfo
from xec.event import EventBatch
from xec.lineage import Provenance
from xec.reliability.dead_light import DeadLight
from xec.reliability.domain import features_of
from xec.reliability.record import Reliability
from xec.simulation.generator import Generator, SimulatedBatch, SimulationConfig

GEOMETRY = parametric()
WHERE = Provenance("reconstruct", "1", "0" * 64, GEOMETRY.hash)
DEAD_LIGHT = DeadLight(0.02, np.array([0.0, 10.0, 1000.0]), np.array([2.0, 5.0, 300.0]), 1.5)


def model(**parts: Any) -> ModelInfo:
    return ModelInfo(
        "reconstruct", "1", "0" * 64, GEOMETRY.hash, "1", {}, {"energy": 1.5}, Reliability(**parts)
    )


def events_of(batch: SimulatedBatch, more: np.ndarray | None = None) -> EventBatch:
    valid = (batch.npho_valid & ~batch.dead).numpy()
    if more is not None:
        valid = valid & ~more
    timed = batch.time_valid.numpy() & valid
    return EventBatch(
        run=np.zeros(len(batch), dtype=np.int64),
        event=np.arange(len(batch)),
        npho=np.where(valid, batch.npho.numpy(), np.float32(0)),
        time=np.where(timed, batch.time.numpy(), np.float32(0)),
        npho_valid=valid,
        time_valid=timed,
    )


def answers_of(batch: SimulatedBatch) -> dict[str, np.ndarray]:
    """A model that knows the light of the first gamma: the truth, with a sigma for its noise."""
    light = batch.light.numpy()
    sigma = np.sqrt(10.0 * light.clip(min=1.0) + 25.0)
    B = len(batch)
    found = {
        "npho_mean": light,
        "npho_sigma": sigma,
        "time_mean": np.zeros((B, N_CHANNELS)),
        "time_sigma": np.ones((B, N_CHANNELS)),
        "energy": batch.energy.numpy()[:, None],
        "energy_sigma": np.ones((B, 1)),
        "gamma_time": batch.gamma_time.numpy()[:, None],
        "gamma_time_sigma": np.full((B, 1), 0.1),
        "uvw": batch.uvw.numpy(),
        "uvw_sigma": np.ones((B, 3)),
        "angle": batch.angle.numpy(),
        "angle_sigma": np.ones((B, 2)),
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def simulated(count: int, seed: int, config: SimulationConfig | None = None) -> SimulatedBatch:
    return Generator(config or SimulationConfig(), GEOMETRY, "cpu", seed).sample(count)


def features(batch: EventBatch, outputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([features_of(e, outputs, row, GEOMETRY) for row, e in enumerate(batch)])


def hole(rows: slice, columns: slice) -> np.ndarray:
    dead = np.zeros(N_CHANNELS, dtype=np.bool_)
    dead[INNER_GRID[rows, columns].ravel()] = True
    return dead
