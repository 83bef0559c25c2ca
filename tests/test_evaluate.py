"""The figures of `xec evaluate`, against slow computations of their own."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import build_stub_model, write_model
from support_evaluate import (
    Run,
    command_line,
    simulate,
    slow_quantile,
    whole,
    without_truth,
    write_events,
)
from xec.detector.channels import face_of_channel
from xec.detector.geometry import parametric
from xec.event import EventBatch
from xec_evaluation.collect import Capacity
from xec_evaluation.content import NETWORK, Evaluation
from xec_evaluation.evaluate import Request, evaluate
from xec_evaluation.modes import Mode
from xec_evaluation.patterns import Pattern
from xec_evaluation.source import open_source

EVENTS = 150  # more than two chunks
SMALL = Capacity(sensors=2000, events=100)
FACES = face_of_channel()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub, made for the ideal geometry."""
    repository = tmp_path_factory.mktemp("evaluate") / "model_repository"
    write_model(build_stub_model({"geometry_hash": parametric().hash}), repository)
    return repository / "reconstruct"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("events") / "simulated.root", EVENTS, 11)


@pytest.fixture
def xec_evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys)


def run(model: Path, *data: Path, mode: Mode = Mode.PSEUDO, **options: Any) -> Evaluation:
    options = {"baselines": False, **options}
    request = Request(model, tuple(map(str, data)), mode, **options)
    return evaluate(request, lambda total: lambda done: None)


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return content


def row_of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return row


Answers = Callable[[EventBatch], dict[str, np.ndarray]]


def slow_errors(path: Path, answers: Answers) -> list[tuple[float, float, float, int]]:
    """Error, reading, sigma and channel of every dead sensor, one after the other."""
    chunk = whole(path)
    assert chunk.dead is not None
    assert chunk.npho_reference is not None
    found = answers(chunk.events)
    listed = []
    for event in range(len(chunk)):
        for channel in np.flatnonzero(chunk.dead[event]).tolist():
            reading = float(chunk.npho_reference[event, channel])
            error = float(found["npho_mean"][event, channel]) - reading
            listed.append((error, reading, float(found["npho_sigma"][event, channel]), channel))
    return listed


def test_figures_of_filled_sensors_are_those_of_a_slow_computation(
    xec_evaluate: Run, model: Path, simulated: Path, tmp_path: Path, answers: Answers
) -> None:
    done = xec_evaluate(
        "--model", model, "--data", simulated, "--mode", "pseudo", "--no-baselines",
        "--report", tmp_path / "report",
    )  # fmt: skip
    assert (done.code, done.error) == (0, "")
    assert str(tmp_path / "report" / "report.html") in done.out
    content = report(tmp_path / "report")
    assert content["schema"] == "xec-evaluation/1"
    assert content["synthetic"] is True
    everything = slow_errors(simulated, answers)
    for grouping, group in (("all", "all"), *(("face", str(face)) for face in set(FACES))):
        listed = [row for row in everything if group in ("all", str(FACES[row[3]]))]
        if not listed:
            assert not any(row["group"] == group for row in content["filling"])
            continue
        sizes = [abs(error) for error, *_ in listed]
        bright = [abs(row[0]) / row[1] for row in listed if row[1] >= 100]
        row = row_of(content["filling"], method=NETWORK, grouping=grouping, group=group)
        assert row["sensors"] == len(listed)
        assert row["mae"] == pytest.approx(sum(sizes) / len(sizes), rel=1e-4)
        square = sum(size * size for size in sizes) / len(sizes)
        assert row["rmse"] == pytest.approx(math.sqrt(square), rel=1e-4)
        bias = sum(error for error, *_ in listed) / len(listed)
        assert row["bias"] == pytest.approx(bias, rel=1e-4, abs=1e-4)
        assert row["within68"] == pytest.approx(slow_quantile(sizes, 0.68), rel=1e-4)
        assert row["within95"] == pytest.approx(slow_quantile(sizes, 0.95), rel=1e-4)
        if bright:
            assert row["relative"] == pytest.approx(sum(bright) / len(bright), rel=1e-4)
    pulls = [error / sigma for error, _, sigma, _ in everything]
    pull = row_of(content["pulls"], quantity="sensor light", group="all")
    assert pull["coverage68"] == pytest.approx(np.mean(np.abs(pulls) <= 1), abs=1e-3)
    assert pull["rms"] == pytest.approx(np.sqrt(np.mean(np.square(pulls))), rel=1e-4)
    worst = content["worst"][0]
    assert abs(worst["error"]) == pytest.approx(max(abs(row[0]) for row in everything), rel=1e-5)


def test_worst_sensor_is_where_the_report_says(
    model: Path, simulated: Path, answers: Answers
) -> None:
    worst = run(model, simulated).worst[0]
    chunk = whole(simulated)
    (row,) = np.flatnonzero(chunk.events.event == worst.event)
    assert chunk.npho_reference is not None
    assert worst.truth == pytest.approx(float(chunk.npho_reference[row, worst.channel]))
    found = answers(chunk.events)
    assert worst.estimate == pytest.approx(found["npho_mean"][row, worst.channel], rel=1e-4)
    pull = worst.error / found["npho_sigma"][row, worst.channel]
    assert worst.pull == pytest.approx(pull, rel=1e-4)


def test_figures_of_the_gamma_are_those_of_a_slow_computation(
    model: Path, simulated: Path, answers: Answers
) -> None:
    found = run(model, simulated)
    chunk = whole(simulated)
    truth = chunk.events.truth
    assert truth is not None
    answer = answers(chunk.events)
    errors = sorted((answer["energy"][:, 0] - truth.energy).tolist())
    (energy,) = [r for r in found.resolution if (r.quantity, r.method) == ("energy", NETWORK)]
    assert energy.events == EVENTS
    assert energy.bias == pytest.approx(sum(errors) / EVENTS, rel=1e-4)
    held = math.ceil(math.erf(math.sqrt(0.5)) * EVENTS)
    shortest = min(errors[k + held - 1] - errors[k] for k in range(EVENTS - held + 1))
    assert energy.sigma_eff == pytest.approx(shortest / 2, rel=1e-4)
    pulls = [p for p in found.pulls if p.quantity == "energy"]
    pull = np.abs(answer["energy"][:, 0] - truth.energy) / answer["energy_sigma"][:, 0]
    assert pulls[0].coverage68 == pytest.approx(np.mean(pull <= 1.5), abs=0.01)  # its scale
    assert pulls[0].coverage95 == pytest.approx(np.mean(pull < 1.96), abs=0.01)
    mean_bias = energy.bias_error / (np.std(errors) / math.sqrt(EVENTS))
    assert mean_bias == pytest.approx(1.0, abs=0.2)


def test_bins_are_those_of_a_slow_computation(
    model: Path, simulated: Path, answers: Answers
) -> None:
    found = run(model, simulated)
    chunk = whole(simulated)
    truth = chunk.events.truth
    assert truth is not None
    error = answers(chunk.events)["energy"][:, 0] - truth.energy
    rows = [
        row
        for row in found.bins
        if (row.axis, row.quantity, row.method) == ("w", "energy", NETWORK)
    ]
    assert len(rows) > 1
    assert sum(row.events for row in rows) == EVENTS
    for row in rows:
        inside = error[(truth.uvw[:, 2] >= row.low) & (truth.uvw[:, 2] < row.high)]
        assert row.events == len(inside) >= 50
        assert row.bias == pytest.approx(inside.mean(), rel=1e-4)


def test_chunks_and_files_do_not_change_the_figures(
    model: Path, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = run(model, simulated, mode=Mode.ARTIFICIAL)
    monkeypatch.setattr("xec_evaluation.source.CHUNK", 13)
    again = run(model, simulated, mode=Mode.ARTIFICIAL)
    assert once.masked_per_event == again.masked_per_event == 15
    for one, other in zip(once.filling, again.filling, strict=True):
        assert one.sensors == other.sensors
        assert one.rmse == pytest.approx(other.rmse, rel=1e-5)
        assert one.within95 == pytest.approx(other.within95, rel=1e-4)


def test_a_small_sample_says_so_and_keeps_the_means_exact(model: Path, simulated: Path) -> None:
    full, small = run(model, simulated), run(model, simulated, capacity=Capacity(500, 60))
    assert full.sensors_sampled.kept == full.sensors_sampled.seen
    assert (small.sensors_sampled.kept, small.events_sampled.kept) == (500, 60)
    assert sum("drawn at random" in note for note in small.notes) == 2
    assert not any("drawn at random" in note for note in full.notes)
    for one, other in zip(full.filling, small.filling, strict=True):
        assert (one.rmse, one.mae, one.bias) == (other.rmse, other.mae, other.bias)
    assert small.resolution[0].events == 60


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_events(model: Path, simulated: Path, tmp_path: Path) -> None:
    chunk = whole(simulated)
    events = chunk.events
    short, *more = [write_events(tmp_path / f"{k}.root", events, chunk.dead) for k in range(4)]

    def work(*data: Path) -> Callable[[], object]:
        return lambda: run(model, *data, pattern=Pattern.SINGLES, capacity=SMALL)

    work(short)()  # what is imported and cached once is not counted
    once, four_times = peak(work(short)), peak(work(short, *more))
    assert four_times < 1.15 * once
    geometry = parametric().hash
    source = open_source([str(short), *map(str, more)], None, geometry)
    alone = open_source([str(short)], None, geometry)
    # The negative control: holding all chunks does grow.
    assert peak(lambda: list(source.chunks())) > 2 * peak(lambda: list(alone.chunks()))


def test_the_light_of_an_event_without_truth_is_still_compared(
    model: Path, simulated: Path, tmp_path: Path
) -> None:
    events = without_truth(whole(simulated).events)
    data = write_events(tmp_path / "data.root", events)
    for mode, words in ((Mode.ARTIFICIAL, "masked"), (Mode.PSEUDO, "dead")):
        found = run(model, data, mode=mode)
        assert not found.synthetic
        assert found.resolution == found.distances == found.bins == ()
        assert any(f"no truth: the figures are those of the {words}" in n for n in found.notes)
        assert {row.quantity for row in found.pulls} == {"sensor light"}
