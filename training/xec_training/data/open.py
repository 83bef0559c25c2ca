"""From what a user writes to a source of events."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Final

import torch

from xec.detector.geometry import Geometry
from xec.errors import FileError, UsageError
from xec_training.data.files import VALIDATION_SHARE, FileSource
from xec_training.data.simulated import TRAINING_ENERGY, SimulatedSource, training_simulation
from xec_training.data.source import EventSource, Part

SIMULATED: Final = "sim:"


def open_source(
    data: str | Sequence[str],
    *,
    geometry: Geometry,
    device: torch.device,
    seed: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    part: Part = "train",
    validation_share: float = VALIDATION_SHARE,
    require_truth: bool = False,
    energy: tuple[float, float] = TRAINING_ENERGY,
) -> EventSource:
    """The source that `data` names.

    Args:
        data: ``sim:`` (simulated, no epochs), ``sim:2000`` (2000 fresh events per epoch), or
            names and patterns (``runs/*.root``, ``**``) of event files.
        geometry: of the training.
        device: where batches are given.
        seed: of simulation or shuffling.
        batch_size: events per batch.
        rank: which of the `world` ranks this is.
        world: number of ranks.
        part: training or validation events.
        validation_share: of the events of files; simulated validation events are just others.
        require_truth: refuse files without truth.
        energy: range of simulated energies, MeV.

    Raises:
        UsageError: when `data` makes no sense.
        FileError: when no file matches, or a file cannot be used.
    """
    words = [data] if isinstance(data, str) else list(data)
    if any(word.startswith(SIMULATED) for word in words):
        events = simulated_events(words)
        config = training_simulation(energy)
        return SimulatedSource(
            config, geometry, device, seed, batch_size, events, rank, world, part
        )
    return FileSource(
        matching_files(words),
        batch_size,
        seed,
        rank,
        world,
        device,
        part,
        validation_share,
        geometry_hash=geometry.hash,
        require_truth=require_truth,
    )


def simulated_events(words: Sequence[str]) -> int | None:
    """The number behind ``sim:``, or None if there is none.

    Raises:
        UsageError: when it is no positive number, or more than this one word is given.
    """
    if len(words) > 1:
        raise UsageError(f"{SIMULATED} stands alone, not beside {len(words) - 1} others.")
    number = words[0].removeprefix(SIMULATED)
    if not number:
        return None
    if not (number.isascii() and number.isdecimal()) or int(number) == 0:
        raise UsageError(
            f"{words[0]} names no number of events: write sim:2000 for 2000 per epoch, or sim: "
            "for events without end."
        )
    return int(number)


def matching_files(patterns: Sequence[str]) -> list[Path]:
    """The files that names and patterns stand for, sorted, each once.

    Raises:
        FileError: the first pattern that matches none.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        # A file may have a bracket in its name.
        names = [pattern] if Path(pattern).exists() else glob(pattern, recursive=True)  # noqa: PTH207
        if not names:
            raise FileError(f"No file matches {pattern}: give the name of an event file.")
        for path in sorted(map(Path, names)):
            found.setdefault(path.resolve(), path)
    if not found:
        raise UsageError("No data is named: give sim: or event files.")
    return sorted(found.values())
