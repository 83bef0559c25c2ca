"""`xec evaluate` called in this process, and files and models for its tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support_reconstruct import Outcome
from xec import cli
from xec.detector.geometry import parametric
from xec.event import EventBatch
from xec.io.root import open_events
from xec.io.root_columns import EventChunk
from xec.io.root_writer import RootEventWriter

Run = Callable[..., Outcome]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, with `evaluate` as its only subcommand."""
    installed = cli.entry_points

    def only_ours(**group: str) -> list[Any]:
        return [entry for entry in installed(**group) if entry.name == "evaluate"]

    monkeypatch.setattr(cli, "entry_points", only_ours)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["xec", "evaluate", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def simulate(path: Path, events: int, seed: int, energy: tuple[float, float] = (15, 60)) -> Path:
    """A file as `xec simulate` writes it."""
    from xec.simulation.event_file import Request, write

    write(Request(events, path, seed, 5, energy, None, 0.0, "cpu"))
    return path


def write_events(
    path: Path,
    events: EventBatch,
    dead: Any = None,
    reference: Any = None,
    geometry: str | None = None,
) -> Path:
    """A file of data, of the ideal geometry if no other is given."""
    geometry = parametric().hash if geometry is None else geometry
    with RootEventWriter(path, geometry_hash=geometry, synthetic=False) as writer:
        writer.write(events, dead, reference)
    return path


def whole(path: Path) -> EventChunk:
    """All events of a file, which has truth everywhere or nowhere."""
    with open_events(path) as file:
        (chunk,) = file.chunks(len(file))
    return chunk


def without_truth(events: EventBatch) -> EventBatch:
    """As data: nobody knows the gamma."""
    return EventBatch(
        events.run, events.event, events.npho, events.time, events.npho_valid, events.time_valid
    )


def slow_quantile(values: list[float], share: float) -> float:
    """Linear between the two nearest order statistics."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def slow_average(npho: np.ndarray, valid: np.ndarray, channel: int, face: np.ndarray) -> float:
    """Mean of the live sensors of the same face within 20 cm, one sensor."""
    place = parametric().position
    total, count = 0.0, 0
    for other in np.flatnonzero(face == face[channel]):
        near = np.linalg.norm(place[other] - place[channel]) <= 20.0
        if other != channel and near and valid[other]:
            total += float(npho[other])
            count += 1
    return total / count
