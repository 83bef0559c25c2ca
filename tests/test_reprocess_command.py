"""`xec reprocess` on real files, through the command line, in this process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest

from conftest import build_stub_model, random_events, write_model
from support_client import Code, FaultyServicer, real_server, rich, serving
from support_reconstruct import DEAD, assert_refused, stored, write_events
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
from xec.conditions.dead_list import write_dead_list
from xec.contract import CONTRACT_VERSION
from xec.io.parquet_read import describe_results
from xec.io.result_digest import content_of
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client.reprocess import local

COUNTS = {1: 23, 2: 8, 3: 0}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "runs"
    folder.mkdir()
    return [write_run(folder, number, count) for number, count in COUNTS.items()]


@pytest.fixture
def common(stub_repository: Path, tmp_path: Path) -> tuple[object, ...]:
    """Options of most calls: parts of 8 events, batches of 4."""
    model = ("--model", stub_repository)
    return ("--out", tmp_path / "out", *model, "--part-events", 8, "--batch-size", 4)


def ids_of(runs: list[Path]) -> Counter[tuple[int, int]]:
    return Counter(
        (1000 + int(path.name[3:8]), event)
        for path in runs
        for event in range(COUNTS[int(path.name[3:8])])
    )


@pytest.mark.parametrize("kind", ["parquet", "root"])
def test_every_event_is_there_once(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path, kind: str
) -> None:
    outcome = call(*runs, *common, "--format", kind)
    assert outcome.code == 0, outcome.error
    out = tmp_path / "out"
    assert wrong_with(out, ids_of(runs)) == []
    rows = [content_of(path).rows for path in parts(the_folder(out))]
    assert rows == [8, 8, 7, 8, 0]
    assert "3 done" in outcome.out
    assert "31 in" in outcome.out


def test_answers_are_those_of_the_model(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    assert call(*runs, *common).code == 0
    found = energies(parts(the_folder(tmp_path / "out")))
    expected = expected_energies([stored(path) for path in runs[:2]])
    assert found.keys() == expected.keys()
    for key, energy in expected.items():
        assert found[key] == pytest.approx(energy, rel=1e-4)


def test_parts_tell_where_they_come_from(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    assert call(*runs, *common).code == 0
    first = parts(the_folder(tmp_path / "out"))[0]
    described = describe_results(first)
    assert described.label.source == "run00001.root"
    assert described.label.synthetic
    assert [p.model_version for p in described.provenances] == ["stub-1"]


def test_a_second_call_does_nothing(
    call: Call,
    runs: list[Path],
    common: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert call(*runs, *common).code == 0
    out = tmp_path / "out"
    before = {path: path.stat() for path in sorted(out.rglob("*"))}

    def work(*_: object) -> None:
        raise AssertionError("something was made again")

    monkeypatch.setattr(local, "work_on", work)
    outcome = call(*runs, *common)
    assert (outcome.code, outcome.error) == (0, "")
    assert "events  0 in" in outcome.out
    after = {path: path.stat() for path in sorted(out.rglob("*"))}
    assert {p: (s.st_ino, s.st_mtime_ns, s.st_size) for p, s in after.items()} == {
        p: (s.st_ino, s.st_mtime_ns, s.st_size) for p, s in before.items()
    }


def test_what_decides_the_results_decides_the_folder(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    """Another model, dead list or option is computed beside; the old results stay."""
    out = tmp_path / "out"
    assert call(*runs, *common).code == 0
    (first,) = (path for path in out.iterdir() if path.is_dir())
    old = {path.name: path.read_bytes() for path in parts(first)}
    write_dead_list(tmp_path / "dead.txt", DEAD)
    write_model(build_stub_model({"model_version": "stub-2"}), tmp_path / "other")
    variants: list[tuple[object, ...]] = [
        ("--dead-list", tmp_path / "dead.txt"),
        ("--model", tmp_path / "other"),
        ("--batch-size", 5),
    ]
    for number, variant in enumerate(variants, start=2):
        assert call(*runs, *common, *variant).code == 0
        assert sum(path.is_dir() for path in out.iterdir()) == number
    assert {path.name: path.read_bytes() for path in parts(first)} == old
    # The same again makes no further one, nor does a number that decides nothing.
    assert call(*runs, *common, "--in-flight", 2).code == 0
    assert sum(path.is_dir() for path in out.iterdir()) == 1 + len(variants)


def test_a_changed_input_is_made_again_beside(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call(*runs, *common).code == 0
    before = contents(out)
    write_run(runs[1].parent, 2, 5)
    assert call(*runs, *common).code == 0
    assert before.items() <= contents(out).items()
    assert len(contents(out)) == len(before) + 1
    listed = call("status", out, "--files").out.split()
    assert event_ids([Path(name) for name in listed])[1002, 4] == 1
    assert event_ids([Path(name) for name in listed])[1002, 5] == 0
    assert "1 inputs that changed since" in call("status", out).out


def test_bad_files_fail_with_a_reason_and_the_others_go_on(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    cut, foreign = runs[0].with_name("cut.root"), runs[0].with_name("foreign.root")
    cut.write_bytes(runs[0].read_bytes()[:-1000])
    foreign.write_text("not a ROOT file")
    missing = runs[0].with_name("missing.root")
    outcome = call(cut, foreign, missing, *runs, *common)
    assert_refused(outcome, 10, "3 of 6 runs failed", "cut.root")
    assert states(tmp_path / "out") == {
        "cut.root": "failed",
        "foreign.root": "failed",
        "missing.root": "failed",
        **{path.name: "done" for path in runs},
    }
    assert event_ids(parts(the_folder(tmp_path / "out"))) == ids_of(runs)
    shown = call("status", tmp_path / "out").out
    assert "is cut short" in shown
    assert "is not a ROOT file" in shown
    assert "does not exist" in shown


def test_damage_inside_a_file_fails_that_run_alone(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    content = bytearray(runs[0].read_bytes())
    content[-60_000:-59_000] = bytes(1000)  # of the times, which are compressed
    runs[0].write_bytes(content)
    assert call(*runs, *common).code == 10
    found = states(tmp_path / "out")
    assert found == {runs[0].name: "failed", runs[1].name: "done", runs[2].name: "done"}


def test_a_run_is_abandoned_after_so_many_failures(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    bad = runs[0].with_name("bad.root")
    bad.write_text("not a ROOT file")
    seen = []
    for _ in range(3):
        assert call(bad, runs[1], *common, "--attempts", 2).code == 10
        seen.append(states(tmp_path / "out")["bad.root"])
    assert seen == ["failed", "abandoned", "abandoned"]
    write_run(bad.parent, 9, 4).replace(bad)  # another content is another input
    assert call(bad, runs[1], *common).code == 0


def test_an_abandoned_run_is_tried_when_asked(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    missing = runs[0].with_name("later.root")
    assert call(missing, *common, "--attempts", 1).code == 10
    assert states(tmp_path / "out") == {"later.root": "abandoned"}
    write_run(missing.parent, 9, 4).replace(missing)
    assert call(missing, *common, "--again").code == 0
    assert states(tmp_path / "out") == {"later.root": "done"}


def test_a_missing_part_is_made_again(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    assert call(*runs, *common).code == 0
    out = tmp_path / "out"
    before = contents(out)
    parts(the_folder(out))[1].unlink()
    assert call(*runs, *common).code == 0
    assert contents(out) == before
    assert wrong_with(out, ids_of(runs)) == []


def test_midas_runs(call: Call, common: tuple[object, ...], tmp_path: Path) -> None:
    """Parts need not fall together with batches; a run is one piece."""
    folder = tmp_path / "midas"
    folder.mkdir()
    paths = [write_run(folder, 1, 23, ".mid.lz4"), write_run(folder, 2, 8, ".mid")]
    assert call(*paths, *common, "--batch-size", 3).code == 0
    out = tmp_path / "out"
    assert wrong_with(out, ids_of(paths)) == []
    assert [content_of(path).rows for path in parts(the_folder(out))] == [8, 8, 7, 8]
    before = contents(out)
    parts(the_folder(out))[1].unlink()
    assert call(*paths, *common, "--batch-size", 3).code == 0
    assert contents(out) == before


def test_by_a_server(
    call: Call,
    runs: list[Path],
    common: tuple[object, ...],
    stub_repository: Path,
    tmp_path: Path,
) -> None:
    with real_server(stub_repository) as address:
        assert call(*runs, *common, "--server", address).code == 0
    served = tmp_path / "out"
    assert wrong_with(served, ids_of(runs)) == []
    here = tmp_path / "here"
    assert call(*runs, *common, "--out", here).code == 0
    ours, theirs = (energies(parts(the_folder(out))) for out in (here, served))
    assert ours.keys() == theirs.keys()
    np.testing.assert_array_equal(list(ours.values()), list(theirs.values()))


def test_a_server_that_is_away_is_no_fault_of_a_run(
    call: Call, runs: list[Path], common: tuple[object, ...], tmp_path: Path
) -> None:
    outcome = call(*runs, *common, "--server", "127.0.0.1:1", "--timeout", 0.3)
    assert_refused(outcome, 7, "127.0.0.1:1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "ends_all"),
    [(Code.NOT_FOUND, False), (Code.INVALID_ARGUMENT, False), (Code.PERMISSION_DENIED, True)],
)
def test_what_a_server_refuses_is_the_runs_fault_or_ends_all(
    call: Call, tmp_path: Path, code: grpc.StatusCode, ends_all: bool
) -> None:
    paths = [
        write_events(tmp_path / f"run{n}.root", random_events(4, n), geometry="") for n in (1, 2)
    ]
    servicer = FaultyServicer()
    # Which model it is, asked by the plan and by the work; then the first batch.
    servicer.script = [None, None, rich(code, "on purpose")]
    out = tmp_path / "out"
    with serving(servicer) as address:
        outcome = call(*paths, "--out", out, "--server", address)
        found = states(out)
        assert call(*paths, "--out", out, "--server", address).code == 0
    assert "on purpose" in outcome.error
    if ends_all:
        assert outcome.code == 11
        assert found == {"run1.root": "busy"}
    else:
        assert outcome.code == 10
        assert found == {"run1.root": "failed", "run2.root": "done"}


def test_a_server_that_changed_its_model_ends_the_call(call: Call, tmp_path: Path) -> None:
    """What was planned for one model is not answered by another."""
    path = write_events(tmp_path / "run1.root", random_events(4, 1), geometry="")

    def planned(_: object) -> pb.GetModelResponse:
        told = pb.Provenance(model_name="fake", model_sha256="a" * 64)
        return pb.GetModelResponse(contract_version=CONTRACT_VERSION, provenance=told)

    servicer = FaultyServicer()
    servicer.script = [planned, planned]
    out = tmp_path / "out"
    with serving(servicer) as address:
        outcome = call(path, "--out", out, "--server", address)
    assert_refused(outcome, 5, "not from aaaaaaaaaaaa")
    assert states(out) == {"run1.root": "busy"}
    assert parts(the_folder(out)) == []
