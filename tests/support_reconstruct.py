"""`xec reconstruct` called in this process, its files, and how it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xec import cli
from xec.conditions.dead_list import DeadList
from xec.event import EventBatch, Reconstruction
from xec.io.root import read_events
from xec.io.root_writer import RootEventWriter

GEOMETRY = "9" * 64  # of the stub model
COUNT = 70
DEAD = DeadList.of([5, 6, 7, 4100])


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    error: str


Run = Callable[..., Outcome]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, with `reconstruct` as its only subcommand."""
    installed = cli.entry_points

    def only_ours(**group: str) -> list[Any]:
        return [entry for entry in installed(**group) if entry.name == "reconstruct"]

    monkeypatch.setattr(cli, "entry_points", only_ours)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["xec", "reconstruct", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def write_events(path: Path, batch: EventBatch, dead: Any = None, geometry: str = GEOMETRY) -> Path:
    with RootEventWriter(path, geometry_hash=geometry, synthetic=True) as writer:
        writer.write(batch, dead)
    return path


def stored(path: Path) -> EventBatch:
    (batch,) = read_events(path)
    return batch


def assert_same(first: list[Reconstruction], second: list[Reconstruction]) -> None:
    """Bit by bit; only the id under which the dead list is recorded may differ."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert (one.run, one.event, one.flags) == (other.run, other.event, other.flags)
        for name in ("energy", "gamma_time", "uvw", "angle"):
            for field in ("mean", "sigma", "low", "high"):
                np.testing.assert_array_equal(
                    getattr(getattr(one, name), field), getattr(getattr(other, name), field)
                )
        for field in ("channel", "npho", "npho_sigma", "time", "time_sigma", "status"):
            np.testing.assert_array_equal(
                getattr(one.recovered, field), getattr(other.recovered, field)
            )
        assert one.provenance.model_sha256 == other.provenance.model_sha256


def left_behind(folder: Path, *known: str) -> set[str]:
    """Names in the folder, hidden ones too, beyond those known."""
    return {path.name for path in folder.iterdir()} - {"in.root", *known}


def assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.error
    assert outcome.error.startswith("xec: ")
    assert outcome.error.count("\n") == 1
    for word in words:
        assert word in outcome.error
