"""Calibration: scales of the sigmas and intervals that hold on events nobody has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from support_trainer import run, trainer
from xec.contract import ESTIMATES, SENSOR_ESTIMATES
from xec.detector.geometry import parametric
from xec.models.build import preset
from xec.models.calibration import WIDTHS
from xec.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from xec.models.reconstructor import Reconstructor
from xec.simulation import event_file
from xec_training.calibrate import calibrate, calibrate_checkpoint
from xec_training.calibration_sample import collect
from xec_training.data.batch import TrainingBatch
from xec_training.data.files import FileSource
from xec_training.data.simulated import (
    SimulatedSource,
    signal_simulation,
    training_simulation,
)
from xec_training.held_out import HeldOut, held_out_of

CPU = torch.device("cpu")
ALL = [e.name for e in ESTIMATES]


def signal(seed: int, events: int) -> list[TrainingBatch]:
    source = SimulatedSource(signal_simulation(), parametric(), CPU, seed, 50, events)
    return list(source.batches())


def trained(stage: str = "regress") -> Reconstructor:
    model = run(trainer(stage, "data.source=sim:80", "training.epochs=1")).model
    assert isinstance(model, Reconstructor)
    return model


def dealt(seed: int, events: int) -> HeldOut:
    source = SimulatedSource(training_simulation(), parametric(), CPU, seed, 50, events)
    return held_out_of(source, parametric(), CPU, events, seed)


def width(model: Reconstructor, seed: int, events: int = 200) -> NDArray[np.float64]:
    """68.27 % quantile of the sizes of the pulls of the gamma's components."""
    found = collect(model, signal(seed, events), ALL, 9, parametric())
    return np.asarray(np.quantile(np.abs(found.pull), 0.6827, axis=0))


def test_calibration_makes_the_pulls_of_fresh_events_one() -> None:
    model = trained()
    before = width(model, 1, 100)
    seen: list[int] = []
    held_out = dealt(2, 400)
    found = calibrate(model, held_out, ALL, 0, parametric(), seen.append)
    after = width(model, 3)
    assert abs(before[0] - 1.0) > 0.2  # control: an untrained spread is off
    np.testing.assert_allclose(after[:2], 1.0, atol=0.15)
    assert found.events == 400
    assert sum(seen) == held_out.expected
    assert set(found.interval_scale) == {"energy", "gamma_time", "uvw", "angle"}
    assert all(0.7 < value < 1.4 for value in found.interval_scale.values())
    assert {row.name for row in found.rows} >= {"energy", "w", "npho, inner", "time, PMT"}
    assert found.reliability.domain is not None
    assert found.false_alarms is not None
    assert found.false_alarms < 0.06


def test_calibrating_again_changes_nothing() -> None:
    model = trained()
    first = calibrate(model, dealt(2, 40), ALL, 0, parametric())
    again = calibrate(model, dealt(2, 40), ALL, 0, parametric())
    assert first.interval_scale == again.interval_scale
    assert first.reliability.as_dict() == again.reliability.as_dict()


def test_the_parts_of_the_held_out_events_never_mix() -> None:
    held_out = dealt(1, 60)
    parts = {
        purpose: torch.cat([batch.uvw for batch in held_out.part(purpose)])
        for purpose in ("scales", "intervals", "fresh")
    }
    assert [len(part) for part in parts.values()] == [24, 24, 12]
    assert len(torch.cat(list(parts.values())).unique(dim=0)) == 60
    assert torch.equal(parts["fresh"], torch.cat([b.uvw for b in held_out.part("fresh")]))
    assert sum(map(len, held_out.with_holes())) == 6


def test_a_filling_of_sensors_is_calibrated_without_the_gamma(tmp_path: Path) -> None:
    training = run(trainer("inpaint"))
    description = Checkpoint(training.plan.config, "tiny", parametric().hash, stage="inpaint")
    save_checkpoint(tmp_path, training.model, description)
    calibrate_checkpoint(tmp_path, parametric(), CPU, training.validation, 40, 1)
    model, checkpoint = load_checkpoint(tmp_path, parametric(), ("inpaint",))
    scales = {name: model.sigma_scale.get_buffer(name) for name in WIDTHS}
    assert {name for name, value in scales.items() if (value != 1.0).any()} == {
        e.sigma_name for e in SENSOR_ESTIMATES
    }
    assert checkpoint.interval_scale == {}
    assert checkpoint.training["calibration_events"] == 40


def test_a_network_trained_on_files_is_calibrated_on_their_held_out_part(tmp_path: Path) -> None:
    path = tmp_path / "run.root"
    event_file.write(event_file.Request(120, path, 3, 1, (52.8, 52.8), None, 0.0, "cpu"))
    held_out = FileSource([path], 16, 1, part="validation", validation_share=0.5)
    description = Checkpoint(preset("tiny"), "tiny", parametric().hash)
    save_checkpoint(tmp_path / "c", trained(), description)
    calibrate_checkpoint(tmp_path / "c", parametric(), CPU, held_out, 1000, 1)
    held_out.close()
    calibrated, checkpoint = load_checkpoint(tmp_path / "c", parametric())
    assert 50 < checkpoint.training["calibration_events"] < 70  # half of the file
    assert calibrated.sigma_scale.get_buffer("energy_sigma") != 1.0


def test_a_time_that_is_not_known_has_no_pull() -> None:
    (batch,) = signal(5, 20)
    blind = replace(batch, time_valid=torch.zeros_like(batch.time_valid))
    found = collect(trained(), [blind], ALL, 0, parametric())
    assert np.isnan(found.sensor_pull[:, 1]).all()
    assert np.isfinite(found.sensor_pull[:, 0]).all()
    assert len(found.event) == int((batch.dead & batch.npho_valid).sum())
