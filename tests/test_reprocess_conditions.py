"""Dead lists by run in `xec reprocess` and `xec reconstruct --local`, from a real database."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import support_reconstruct
from conftest import random_events
from support_conditions import NOTE, address_of, writer
from support_reconstruct import assert_refused, write_events
from support_reprocess import (
    Call,
    command_line,
    contents,
    energies,
    event_ids,
    expected_energies,
    parts,
    states,
    the_folder,
    write_run,
    wrong_with,
)
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.event import EventBatch
from xec.io.parquet_read import describe_results, read_results

COUNT = 9
A, B, NONE = DeadList.of((17, 18, 4100)), DeadList.of((300,)), DeadList.of(())


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.delenv("XEC_CONDITIONS_DATABASE", raising=False)
    return command_line(monkeypatch, capsys)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Run 1001 has list A, 1002 (MIDAS) list B, 1003 an empty one; 1004 is not known."""
    path = tmp_path / "conditions.sqlite"
    record(path, Change(Runs(1001, 1001), A), Change(Runs(1002, 1002), B))
    record(path, Change(Runs(1003, 1003), NONE))
    return path


def record(path: Path, *changes: Change, tag: Tag = Tag.ONLINE) -> None:
    with writer(address_of(path)) as store:
        store.record(tag, changes, NOTE)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "runs"
    folder.mkdir()
    suffixes = {1: ".root", 2: ".mid.lz4", 3: ".root", 4: ".root"}
    return [write_run(folder, number, COUNT, suffix) for number, suffix in suffixes.items()]


@pytest.fixture
def common(stub_repository: Path, tmp_path: Path, database: Path) -> tuple[object, ...]:
    model = ("--model", stub_repository, "--part-events", 6, "--batch-size", 4)
    return ("--out", tmp_path / "out", *model, "--conditions", database, "--tag", "online")


def batch_of(number: int) -> EventBatch:
    return random_events(COUNT, number)


def expected(lists: dict[int, DeadList]) -> dict[tuple[int, int], float]:
    """What the stub model answers, each run with its own list, by NumPy."""
    return expected_energies([batch_of(n).with_dead(dead.mask) for n, dead in lists.items()])


def assert_energies(paths: list[Path], lists: dict[int, DeadList]) -> None:
    found, told = energies(paths), expected(lists)
    assert found.keys() == told.keys()
    np.testing.assert_allclose([found[key] for key in told], list(told.values()), rtol=1e-5)


def test_each_run_has_its_own_list_and_says_which_revision_names_it(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    outcome = call(*runs[:3], *common)
    assert outcome.code == 0, outcome.error
    found = parts(the_folder(tmp_path / "out"))
    assert_energies(found, {1: A, 2: B, 3: NONE})
    told = {}
    for path in found:
        (provenance,) = describe_results(path).provenances
        told[path.name[:8]] = (provenance.dead_list_id, provenance.dead_list_revision)
    assert told == {
        "run00001": (A.list_id, "ONLINE@1"),
        "run00002": (B.list_id, "ONLINE@1"),
        "run00003": (NONE.list_id, "ONLINE@2"),
    }
    assert "by run, ONLINE" in call("status", tmp_path / "out").out


def test_the_lists_decide_the_energies(runs: list[Path]) -> None:
    """Control: with another run's list the same comparison fails."""
    right, wrong = expected({1: A, 2: B, 3: NONE}), expected({1: B, 2: B, 3: NONE})
    assert any(not np.isclose(right[key], wrong[key], rtol=1e-5) for key in right)


def test_an_unknown_run_fails_with_that_reason_and_the_others_go_on(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path, database: Path
) -> None:
    outcome = call(*runs, *common)
    assert_refused(outcome, 10, "1 of 4 runs failed", "Run 1004 comes after run 1003")
    out = tmp_path / "out"
    assert states(out) == {path.name: "done" for path in runs[:3]} | {runs[3].name: "failed"}
    assert not any(run == 1004 for run, _ in event_ids(parts(the_folder(out))))
    record(database, Change(Runs(1004, 1004), B))
    before = contents(out)
    outcome = call(*runs, *common)
    assert outcome.code == 0, outcome.error
    assert f"events  {COUNT} in" in outcome.out
    assert before.items() <= contents(out).items()
    assert wrong_with(out, Counter((1000 + n, e) for n in (1, 2, 3, 4) for e in range(COUNT))) == []


def test_a_changed_list_is_recomputed_beside_the_old(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path, database: Path
) -> None:
    assert call(*runs[:3], *common).code == 0
    out = tmp_path / "out"
    old = contents(out)
    again = call(*runs[:3], *common)
    assert again.code == 0
    assert "events  0 in" in again.out  # nothing to do
    record(database, Change(Runs(1002, 1002), A))  # of one run only
    record(database, Change(Runs(5000, 6000), A))  # of others
    record(database, Change(Runs(1001, 1003), B), tag=Tag.OFFLINE)  # of other people
    outcome = call(*runs[:3], *common)
    assert outcome.code == 0, outcome.error
    assert f"events  {COUNT} in" in outcome.out
    assert old.items() < contents(out).items()
    files = [Path(line) for line in call("status", out, "--files").out.splitlines()]
    assert_energies(files, {1: A, 2: A, 3: NONE})
    old_parts = [the_folder(out) / name for name in old]
    assert_energies(old_parts, {1: A, 2: B, 3: NONE})


def test_workers_need_no_database(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    """The same parts with Dask, whose workers are told the lists."""
    assert call(*runs[:3], *common).code == 0
    here = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "here")
    outcome = call(*runs[:3], *common, "--cluster", "local:1", "--cores", 1)
    assert outcome.code == 0, outcome.error
    assert contents(tmp_path / "out") == here


def test_a_file_with_several_runs_and_one_without_events(
    call: Call, common: tuple[object, ...], tmp_path: Path
) -> None:
    first, second = batch_of(1), batch_of(2)
    mixed = EventBatch(
        *(
            np.concatenate([getattr(first, name), getattr(second, name)])
            for name in ("run", "event", "npho", "time", "npho_valid", "time_valid")
        )
    )
    path = write_events(tmp_path / "mixed.root", mixed)
    empty = write_events(tmp_path / "empty.root", batch_of(4)[:0])
    outcome = call(path, empty, *common)
    assert outcome.code == 0, outcome.error
    assert_energies(parts(the_folder(tmp_path / "out")), {1: A, 2: B})


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--conditions", "x.sqlite"), 2, "needs --tag"),
        (("--tag", "online"), 2, "--tag needs a database"),
        (("--conditions", "x.sqlite", "--tag", "online"), 4, "x.sqlite does not exist"),
        (("--conditions", "postgresql://u:secret@h/d", "--tag", "online"), 2, "holds a password"),
        (
            ("--conditions", "x.sqlite", "--tag", "online", "--server", "127.0.0.1:1"),
            2,
            "a server has its own",
        ),
        (("--conditions", "x.sqlite", "--tag", "online", "--dead-list", "L"), 2, "one or the"),
    ],
)
@pytest.mark.parametrize("command", ["reprocess", "reconstruct"])
def test_options_that_cannot_be_followed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runs: list[Path],
    stub_repository: Path,
    tmp_path: Path,
    command: str,
    options: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.delenv("XEC_CONDITIONS_DATABASE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "L").write_text("5\n")
    of = command_line if command == "reprocess" else support_reconstruct.command_line
    call = of(monkeypatch, capsys)
    out = "out" if command == "reprocess" else "out.parquet"
    local = () if command == "reprocess" or "--server" in options else ("--local",)
    outcome = call(runs[0], "--out", out, "--model", stub_repository, *local, *options)
    assert_refused(outcome, code, says)
    assert "secret" not in outcome.error
    assert not (tmp_path / "out.parquet").exists()


def test_reconstruct_here_takes_the_list_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runs: list[Path],
    stub_repository: Path,
    database: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XEC_CONDITIONS_DATABASE", str(database))
    call = support_reconstruct.command_line(monkeypatch, capsys)
    common = ("--local", "--model", stub_repository, "--tag", "ONLINE", "--quiet")
    out = tmp_path / "out.parquet"
    assert call(runs[1], "--out", out, *common).code == 0
    assert_energies([out], {2: B})
    (answer, *_) = read_results(out)
    assert answer.provenance.dead_list_revision == "ONLINE@1"
    refused = call(runs[3], "--out", tmp_path / "none.parquet", *common)
    assert_refused(refused, 4, "Run 1004 comes after run 1003")
    assert not (tmp_path / "none.parquet").exists()


def test_neither_is_loaded_without_being_asked_for(runs: list[Path]) -> None:
    """A client without SQLAlchemy reprocesses; the modules stand where they are imported late."""
    import subprocess

    code = (
        "import sys, xec_client.reprocess.calling, xec_client.by_run, xec_client.file_run; "
        "sys.exit('sqlalchemy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
