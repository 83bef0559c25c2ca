"""The conventional methods in `xec evaluate`: the same as by themselves, and slowly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import build_stub_model, write_model
from support_evaluate import simulate, slow_average, whole
from xec.detector.channels import face_of_channel
from xec.detector.geometry import parametric
from xec.event import EventBatch
from xec.recovery.conventional import conventional_gamma
from xec.recovery.local_fit import local_fit_recovery
from xec_evaluation.content import CONVENTIONAL, NETWORK, Evaluation
from xec_evaluation.evaluate import Request, evaluate
from xec_evaluation.modes import Mode

EVENTS = 150  # more than two chunks
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


def run(model: Path, *data: Path, mode: Mode = Mode.PSEUDO, **options: Any) -> Evaluation:
    request = Request(model, tuple(map(str, data)), mode, local_fit=False, **options)
    return evaluate(request, lambda total: lambda done: None)


def test_a_baseline_is_that_of_a_slow_computation(model: Path, simulated: Path) -> None:
    found = run(model, simulated, events=4)
    chunk = whole(simulated)[:4]
    assert chunk.dead is not None
    assert chunk.npho_reference is not None
    errors = [
        slow_average(event.npho, event.npho_valid, channel, FACES)
        - float(chunk.npho_reference[place, channel])
        for place, event in enumerate(chunk.events)
        for channel in np.flatnonzero(chunk.dead[place])
    ]
    (row,) = [
        row for row in found.filling if row.method == "neighbour average" and row.grouping == "all"
    ]
    assert row.mae == pytest.approx(np.mean(np.abs(errors)), rel=1e-4)
    assert row.rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)


def test_the_local_fit_is_that_of_recovery(model: Path, simulated: Path) -> None:
    found = evaluate(
        Request(model, (str(simulated),), Mode.PSEUDO, events=3), lambda total: lambda done: None
    )
    chunk = whole(simulated)[:3]
    assert chunk.dead is not None
    assert chunk.npho_reference is not None
    filled = local_fit_recovery(chunk.events.npho, chunk.events.npho_valid, parametric())
    errors = (filled - chunk.npho_reference)[chunk.dead]
    (row,) = [row for row in found.filling if (row.method, row.group) == ("local fit", "all")]
    assert row.sensors + row.missing == len(errors)
    assert row.mae == pytest.approx(np.nanmean(np.abs(errors)), rel=1e-5)


def test_conventional_estimates_of_the_gamma_stand_beside_the_network(
    model: Path, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Estimators that are off by a constant, and answer every other event only."""

    def off_by_one(events: EventBatch) -> Any:
        truth = events.truth
        assert truth is not None
        deeper = truth.uvw + np.array([0, 0, 2])
        energy = np.where(events.event % 2, np.nan, truth.energy + 1)
        return SimpleNamespace(
            energy=energy,
            gamma_time=truth.gamma_time,
            uvw=deeper,
            angle=truth.angle,
        )

    monkeypatch.setattr("xec_evaluation.baselines.gamma", lambda geometry: off_by_one)
    found = run(model, simulated)
    rows = {row.quantity: row for row in found.resolution if row.method == CONVENTIONAL}
    assert (rows["energy"].events, rows["w"].events) == (EVENTS // 2, EVENTS)
    assert rows["energy"].bias == pytest.approx(1.0, abs=1e-5)
    assert rows["energy"].sigma_eff == pytest.approx(0.0, abs=1e-5)
    assert rows["w"].bias == pytest.approx(2.0, abs=1e-5)
    (distance,) = [
        row for row in found.distances if (row.quantity, row.method) == ("distance", CONVENTIONAL)
    ]
    assert (distance.within68, distance.within95) == pytest.approx((2.0, 2.0), abs=1e-4)
    assert {row.method for row in found.cost} >= {NETWORK, CONVENTIONAL}
    curves = {row.method for row in found.bins if row.quantity == "w"}
    assert curves == {NETWORK, CONVENTIONAL}


def test_conventional_estimates_are_those_of_recovery(model: Path, simulated: Path) -> None:
    found = run(model, simulated, events=40)
    events = whole(simulated)[:40].events
    assert events.truth is not None
    gamma = conventional_gamma(
        events.npho, events.time, events.npho_valid, events.time_valid, parametric()
    )
    rows = {row.quantity: row for row in found.resolution if row.method == CONVENTIONAL}
    for name, error in (
        ("energy", gamma.energy - events.truth.energy),
        ("gamma_time", gamma.gamma_time - events.truth.gamma_time),
        ("w", gamma.uvw[:, 2] - events.truth.uvw[:, 2]),
        ("theta", gamma.angle[:, 0] - events.truth.angle[:, 0]),
    ):
        known = error[np.isfinite(error)]
        assert rows[name].events == len(known)
        assert rows[name].bias == pytest.approx(known.mean(), rel=1e-3, abs=1e-4)
