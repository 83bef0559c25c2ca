"""`xec reconstruct` and `xec simulate` with MIDAS files, through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from io_samples import random_events
from support_midas import old, put, small_run
from support_reconstruct import (
    COUNT,
    GEOMETRY,
    Run,
    assert_refused,
    assert_same,
    command_line,
    left_behind,
    write_events,
)
from xec.event import EventBatch
from xec.io.events import open_events
from xec.io.midas.event_writer import MidasEventWriter
from xec.io.parquet_read import describe_results, read_results


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys)


def write_midas(path: Path, batch: EventBatch, subrun_bytes: int | None = None) -> Path:
    number = int(batch.run[0])
    with MidasEventWriter(
        path, run=number, geometry_hash=GEOMETRY, synthetic=True, subrun_bytes=subrun_bytes
    ) as writer:
        writer.write(batch)
    return path


@pytest.mark.parametrize("subrun_bytes", [None, 1_000_000], ids=["one file", "subruns"])
def test_answers_are_those_for_the_root_file(
    run: Run,
    events: Callable[..., EventBatch],
    stub_repository: Path,
    tmp_path: Path,
    subrun_bytes: int | None,
) -> None:
    batch = events(COUNT)
    sources = {
        "root": write_events(tmp_path / "in.root", batch),
        "midas": write_midas(tmp_path / "run00001.mid.lz4", batch, subrun_bytes),
    }
    results = {}
    for name, source in sources.items():
        out = tmp_path / f"{name}.parquet"
        outcome = run(
            source, "--local", "--model", stub_repository, "--out", out, "--batch-size", 1
        )
        assert outcome.code == 0, outcome.error
        assert f"{COUNT} in" in outcome.out
        assert outcome.error == ""
        assert describe_results(out).label.synthetic
        results[name] = list(read_results(out))
    assert len(results["root"]) == COUNT
    assert_same(results["root"], results["midas"])


def test_a_cut_run_is_reconstructed_and_the_loss_is_told(
    run: Run, stub_repository: Path, tmp_path: Path
) -> None:
    path = write_midas(tmp_path / "in.mid", random_events(5, truth=False))
    path.write_bytes(path.read_bytes()[:-1000])
    out = tmp_path / "out.parquet"
    arguments = (path, "--local", "--model", stub_repository, "--out", out, "--quiet")
    assert_refused(run(*arguments), 3, "is still being written")
    assert left_behind(tmp_path) == {"in.mid"}
    old(path)
    outcome = run(*arguments)
    assert outcome.code == 0
    assert outcome.out == ""
    assert outcome.error.startswith(f"xec: {path} is cut within an event: its last ")
    assert outcome.error.count("\n") == 1
    assert len(list(read_results(out))) == 4


def test_what_is_refused(run: Run, stub_repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    common = ("--local", "--model", stub_repository, "--out", out)
    assert_refused(run(tmp_path / "run1.mid.lz4", *common), 3, "run1.mid.lz4 does not exist")
    foreign = put(tmp_path / "a.mid", b"something else that is long enough to be read")
    assert_refused(run(foreign, *common), 3, "a.mid is not a MIDAS file")
    banks = put(tmp_path / "b.mid", small_run())
    assert_refused(run(banks, *common), 3, "XNPH", "XTIM", "ADC0")
    damaged = put(tmp_path / "c.mid", small_run() + bytes(50))
    assert_refused(run(damaged, *common), 3, "c.mid is damaged at byte")
    assert left_behind(tmp_path) == {"a.mid", "b.mid", "c.mid"}


def test_simulated_runs_as_the_daq_writes_them(tmp_path: Path) -> None:
    import typer

    from xec.simulation.command import simulate

    app = typer.Typer()
    app.command()(simulate)
    paths = [tmp_path / "new.root", tmp_path / "run00321.mid.lz4"]
    for path in paths:
        command = ["--events", "6", "--seed", "7", "--run", "321", "--out", str(path)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    with open_events(paths[0]) as root, open_events(paths[1]) as midas:
        (first,), (second,) = root.chunks(10), midas.chunks(10)
        assert midas.synthetic
        assert root.geometry_hash == midas.geometry_hash
        assert midas.notes == ()
    for name in ("run", "event", "npho", "time", "npho_valid", "time_valid"):
        np.testing.assert_array_equal(getattr(first.events, name), getattr(second.events, name))
    assert second.events.run.tolist() == [321] * 6
