"""Events and reconstructions for the tests of files; random, without physics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import uproot

from xec.contract import GAMMA_ESTIMATES
from xec.detector.channels import N_CHANNELS
from xec.event import EventBatch, Flag, GammaEstimate, Reconstruction, Recovered, Truth
from xec.io.root_writer import RootEventWriter
from xec.lineage import Provenance

PROVENANCE = Provenance("reconstruct", "1", "ab" * 32, "geometry", "sha256:0123", "0.0.test")


def random_truth(rng: np.random.Generator, B: int) -> Truth:
    def normal(*width: int) -> Any:
        return rng.normal(size=(B, *width)).astype(np.float32)

    return Truth(
        rng.uniform(10, 60, B).astype(np.float32),
        normal(),
        normal(3),
        normal(3),
        normal(3),
        normal(3),
        normal(2),
    )


def random_events(B: int, seed: int = 0, truth: bool = True, run: int = 7) -> EventBatch:
    """Events of which about 2 % of the readings are invalid."""
    rng = np.random.default_rng(seed)
    npho = (rng.exponential(60, (B, N_CHANNELS)) - 1).astype(np.float32)
    npho_valid = rng.random(npho.shape) > 0.02
    time_valid = npho_valid & (npho > 100) & (rng.random(npho.shape) > 0.02)
    time = rng.normal(20, 5, npho.shape).astype(np.float32)
    return EventBatch(
        np.full(B, run, dtype=np.int64),
        np.arange(100, 100 + B, dtype=np.int64),
        np.where(npho_valid, npho, np.float32(0)),
        np.where(time_valid, time, np.float32(0)),
        npho_valid,
        time_valid,
        random_truth(rng, B) if truth else None,
    )


def raw_columns(B: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The least that an event file has, in the units of the file."""
    rng = np.random.default_rng(seed)
    return {
        "run": np.full(B, 3, dtype=np.int32),
        "event": np.arange(B, dtype=np.int32),
        "npho": rng.exponential(150, (B, N_CHANNELS)).astype(np.float32),
        "relative_time": rng.uniform(0, 1e-7, (B, N_CHANNELS)).astype(np.float32),
    }


def write_raw(path: Path, columns: dict[str, np.ndarray], tree: str = "tree") -> Path:
    """A file as another program would write it: no note of ours in it."""
    types = {name: np.dtype((array.dtype, array.shape[1:])) for name, array in columns.items()}
    with uproot.recreate(path) as file:
        table = file.mktree(tree, types)
        if len(next(iter(columns.values()))):
            table.extend(columns)
    return path


def write_events(path: Path, events: EventBatch, synthetic: bool = True) -> Path:
    with RootEventWriter(path, geometry_hash="geometry", synthetic=synthetic) as writer:
        writer.write(events)
    return path


def random_reconstruction(
    rng: np.random.Generator, run: int, event: int, channel: np.ndarray
) -> Reconstruction:
    """An answer in which every seventh recovered sensor is refused."""
    K = len(channel)

    def normal(width: int) -> Any:
        return rng.normal(size=width).astype(np.float32)

    gamma = {
        estimate.name: GammaEstimate(*(normal(estimate.width) for _ in range(4)))
        for estimate in GAMMA_ESTIMATES
    }
    status = np.where(np.arange(K) % 7 == 6, 3, 1 + np.arange(K) % 2).astype(np.uint8)
    values = [np.where(status == 3, np.float32(0), normal(K)) for _ in range(4)]
    return Reconstruction(
        run=run,
        event=event,
        recovered=Recovered(channel.astype(np.int32), *values, status=status),
        flags=Flag(int(rng.integers(8))),
        provenance=PROVENANCE,
        **gamma,
    )


def random_answers(events: EventBatch, seed: int = 0) -> list[Reconstruction]:
    """One answer per event, for the sensors without a valid count."""
    rng = np.random.default_rng(seed)
    return [
        random_reconstruction(rng, e.run, e.event, np.flatnonzero(~e.npho_valid)) for e in events
    ]
