"""How `xec evaluate` refuses: one sentence, the exit status of its class, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import build_stub_model, write_model
from support_evaluate import Run, command_line, simulate, whole, without_truth, write_events
from support_reconstruct import assert_refused
from xec.conditions.dead_list import DeadList, write_dead_list
from xec.detector.channels import N_CHANNELS
from xec.detector.geometry import parametric


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("evaluate") / "model_repository"
    write_model(build_stub_model({"geometry_hash": parametric().hash}), repository)
    return repository / "reconstruct"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("events") / "simulated.root", 10, 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "report"


@pytest.fixture
def xec_evaluate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, folder: Path
) -> Run:
    """The command with the model, the report's folder and the network alone."""
    call = command_line(monkeypatch, capsys)

    def evaluate(*arguments: object) -> Any:
        return call("--model", model, "--report", folder, "--no-baselines", *arguments)

    return evaluate


Spoil = Callable[[Path, Path], tuple[object, ...]]


def empty(simulated: Path, folder: Path) -> tuple[object, ...]:
    events = whole(simulated).events[:0]
    return ("--data", write_events(folder / "empty.root", events))


def other_geometry(simulated: Path, folder: Path) -> tuple[object, ...]:
    events = whole(simulated).events[:2]
    return ("--data", write_events(folder / "other.root", events, geometry="8" * 64))


def mixed_geometries(simulated: Path, folder: Path) -> tuple[object, ...]:
    return ("--data", simulated, *other_geometry(simulated, folder))


def all_dead(simulated: Path, folder: Path) -> tuple[object, ...]:
    write_dead_list(folder / "all.txt", DeadList.of(range(N_CHANNELS)))
    return ("--data", simulated, "--dead-list", folder / "all.txt")


def all_but_invalid(simulated: Path, folder: Path) -> tuple[object, ...]:
    """What the list leaves alive is invalid in one event."""
    events = whole(simulated).events[:3]
    valid = events.npho_valid.copy()
    valid[:, 77] = True
    valid[2, 77] = False
    path = write_events(folder / "blind.root", replace(events, npho_valid=valid))
    dead = DeadList.of(channel for channel in range(N_CHANNELS) if channel != 77)
    write_dead_list(folder / "most.txt", dead)
    return ("--data", path, "--dead-list", folder / "most.txt")


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda s, f: ("--data", f / "none.root"), 3, ["none.root", "does not exist"]),
        (lambda s, f: ("--data", f / "run*.root"), 3, ["No file matches", "run*.root"]),
        (lambda s, f: ("--data", s, "--data", s), 2, ["named twice"]),
        (empty, 3, ["no events", "empty.root"]),
        (other_geometry, 5, ["other.root", "made with geometry 88888888"]),
        (mixed_geometries, 3, ["different geometries", "one by one"]),
        (all_dead, 4, ["all.txt", "no live sensor"]),
        (all_but_invalid, 3, ["Event 2", "no sensor with a valid count"]),
        (lambda s, f: ("--data", s, "--dead-list", f / "no.txt"), 4, ["no.txt", "not exist"]),
        (
            lambda s, f: ("--data", s, "--dead-list", f / "x", "--dead-pattern", "row"),
            2,
            ["--dead-list", "--dead-pattern", "one of them"],
        ),
        (lambda s, f: ("--data", s, "--survey", f / "no.txt"), 3, ["no.txt"]),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    xec_evaluate: Run,
    simulated: Path,
    tmp_path: Path,
    folder: Path,
    spoil: Spoil,
    code: int,
    words: list[str],
) -> None:
    done = xec_evaluate("--mode", "pseudo", *spoil(simulated, tmp_path))
    assert_refused(done, code, *words)
    assert done.out == ""
    assert not folder.exists()


def test_a_folder_that_was_there_keeps_its_report(
    xec_evaluate: Run, simulated: Path, tmp_path: Path, folder: Path
) -> None:
    folder.mkdir()
    (folder / "report.html").write_text("old")
    done = xec_evaluate("--mode", "pseudo", *all_but_invalid(simulated, tmp_path))
    assert done.code == 3
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    assert (folder / "report.html").read_text() == "old"
    assert xec_evaluate("--mode", "pseudo", "--data", simulated, "--events", 5).code == 0
    assert (folder / "report.html").read_text() != "old"


@pytest.mark.parametrize("place", ["file", "file/report", "no/such/folder"])
def test_a_report_that_cannot_be_written_is_refused_at_once(
    xec_evaluate: Run, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("")
    # The data does not exist either: the folder is looked at first.
    done = xec_evaluate(
        "--data", tmp_path / "none.root", "--mode", "pseudo", "--report", tmp_path / place
    )
    assert_refused(done, 3, str(tmp_path / place), "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_no_half_report(
    xec_evaluate: Run, simulated: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    done = xec_evaluate("--data", simulated, "--mode", "pseudo", "--events", 5)
    assert_refused(done, 3, "cannot be written", "No space left on device")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"contract_version": "99"}, ["contract version 99"]),
        ({"geometry_hash": "9" * 64}, ["geometry 99999999", "--survey"]),
    ],
)
def test_models_of_another_contract_or_geometry_are_refused(
    xec_evaluate: Run,
    simulated: Path,
    tmp_path: Path,
    folder: Path,
    metadata: dict[str, str],
    words: list[str],
) -> None:
    write_model(build_stub_model({"geometry_hash": parametric().hash, **metadata}), tmp_path / "m")
    done = xec_evaluate("--model", tmp_path / "m", "--data", simulated, "--mode", "pseudo")
    assert_refused(done, 5, *words)
    assert not folder.exists()


def test_a_model_that_is_not_there_is_refused(
    xec_evaluate: Run, simulated: Path, tmp_path: Path
) -> None:
    done = xec_evaluate("--model", tmp_path / "m", "--data", simulated, "--mode", "pseudo")
    assert_refused(done, 5, "m")


def test_front_refuses_data_without_truth(
    xec_evaluate: Run, simulated: Path, tmp_path: Path, folder: Path
) -> None:
    chunk = whole(simulated)
    data = write_events(tmp_path / "data.root", without_truth(chunk.events), chunk.dead)
    done = xec_evaluate("--data", data, "--mode", "front")
    assert_refused(done, 3, "true conversion point", "--mode artificial")
    assert not folder.exists()


def test_a_model_that_is_not_there(xec_evaluate: Run, simulated: Path, tmp_path: Path) -> None:
    outcome = xec_evaluate("--mode", "pseudo", "--data", simulated, "--model", tmp_path / "nowhere")
    assert_refused(outcome, 5, "There is no model at")
