"""`xec reprocess` in this process or one of its own, runs for it, and a look at its parts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from conftest import random_events, stub_answers
from reprocess_cli import only_ours
from support_reconstruct import GEOMETRY, Outcome, write_events
from xec import cli
from xec.engines.base import tensors_of
from xec.event import EventBatch
from xec.io.midas.event_writer import MidasEventWriter
from xec_client.reprocess.folder import lineages
from xec_client.reprocess.manifest import read_manifest
from xec_client.reprocess.status import damaged, read_lineages

Call = Callable[..., Outcome]
TESTS = Path(__file__).parent


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process, with `reprocess` as its only subcommand."""
    monkeypatch.setattr(cli, "entry_points", only_ours)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["xec", "reprocess", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def start(*arguments: object) -> subprocess.Popen[str]:
    """A call in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(TESTS / "reprocess_cli.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*arguments: object) -> None:
    """The same, to its good end."""
    process = start(*arguments)
    _, error = process.communicate()
    assert process.returncode == 0, error


def write_run(folder: Path, number: int, count: int, suffix: str = ".root") -> Path:
    """A run of `count` events, of number 1000 + `number`."""
    path = folder / f"run{number:05d}{suffix}"
    batch = random_events(max(count, 1), number)[:count]
    if suffix == ".root":
        return write_events(path, batch)
    with MidasEventWriter(
        path, run=1000 + number, geometry_hash=GEOMETRY, synthetic=True
    ) as writer:
        writer.write(batch)
    return path


def event_ids(paths: list[Path]) -> Counter[tuple[int, int]]:
    """How often each (run, event) stands in some parts, by the libraries alone."""
    found: Counter[tuple[int, int]] = Counter()
    for path in paths:
        if path.suffix == ".root":
            with uproot.open(path) as file:
                columns = file["tree"].arrays(["run", "event"], library="np")
        else:
            table = pq.read_table(path, columns=["run", "event"])
            columns = {name: table[name].to_numpy() for name in ("run", "event")}
        found.update(zip(columns["run"].tolist(), columns["event"].tolist(), strict=True))
    return found


def energies(paths: list[Path]) -> dict[tuple[int, int], float]:
    """The reconstructed energy of each event of Parquet parts."""
    found: dict[tuple[int, int], float] = {}
    for path in paths:
        table = pq.read_table(path, columns=["run", "event", "energy"])
        keys = zip(table["run"].to_pylist(), table["event"].to_pylist(), strict=True)
        found.update(zip(keys, table["energy"].to_pylist(), strict=True))
    return found


def expected_energies(batches: list[EventBatch]) -> dict[tuple[int, int], float]:
    """What the stub model answers, by NumPy."""
    found: dict[tuple[int, int], float] = {}
    for batch in batches:
        answers = stub_answers(tensors_of(batch))["energy"][:, 0]
        keys = zip(batch.run.tolist(), batch.event.tolist(), strict=True)
        found.update(zip(keys, np.asarray(answers).tolist(), strict=True))
    return found


def the_folder(out: Path) -> Path:
    """The folder of the only lineage."""
    (folder,) = lineages(out)
    return folder


def parts(folder: Path) -> list[Path]:
    """The files of results in the folder of a lineage."""
    return sorted(p for p in folder.glob("[!.]*") if p.suffix in {".parquet", ".root"})


def contents(out: Path) -> dict[str, str]:
    """Digest of each part in the manifest of the only lineage, by name."""
    known = read_manifest(the_folder(out)).parts.values()
    return {name: part.sha256 for run in known for name, part in run.items()}


def states(out: Path) -> dict[str, str]:
    """State of each run of the only lineage, by the name of its file."""
    (lineage,) = read_lineages(out, None)
    return {Path(status.path).name: status.state.value for status in lineage.current()}


def wrong_with(out: Path, expected: Counter[tuple[int, int]]) -> list[str]:
    """What is wrong with an output folder that should hold these events, each once."""
    (lineage,) = read_lineages(out, None)
    files = parts(lineage.folder)
    wrong = list(damaged(lineage))
    try:
        if event_ids(files) != expected:
            wrong.append("events are missing, doubled or invented")
    except pa.ArrowInvalid as error:
        wrong.append(f"a part cannot be read: {error}")
    if {p.name for p in files} != set(contents(out)):
        wrong.append("the manifest names other parts than there are")
    hidden = {p.name for p in lineage.folder.iterdir() if p.name.startswith(".")}
    if hidden:
        wrong.append(f"left behind: {sorted(hidden)}")
    wrong += [f"{name} is {state}" for name, state in states(out).items() if state != "done"]
    return wrong
