"""Calibration: scales of the sigmas and intervals that hold on events nobody has seen."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support_trainer import run, trainer
from xec.contract import ESTIMATES, SENSOR_ESTIMATES
from xec.detector.geometry import parametric
from xec.models.build import preset
from xec.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from xec.models.reconstructor import Reconstructor
from xec.simulation import event_file
from xec_training.calibrate import calibrate, calibrate_checkpoint, conformal_quantile, pulls
from xec_training.data.batch import TrainingBatch
from xec_training.data.files import FileSource
from xec_training.data.simulated import SimulatedSource, signal_simulation

CPU = torch.device("cpu")
ALL = [e.name for e in ESTIMATES]


def signal(seed: int, events: int) -> list[TrainingBatch]:
    source = SimulatedSource(signal_simulation(), parametric(), CPU, seed, 50, events)
    return list(source.batches())


def trained(stage: str = "regress") -> Reconstructor:
    model = run(trainer(stage, "data.source=sim:80", "training.epochs=1")).model
    assert isinstance(model, Reconstructor)
    return model


def test_conformal_quantile_covers_at_least_what_it_promises() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(400):
        scores = torch.randn(41, generator=generator).abs()
        covered.append(float(scores[40] <= conformal_quantile(scores[:40], 0.6827)))
    # Exact coverage of rank 28 of 40 is 28/41; four standard deviations of 400 trials.
    assert sum(covered) / 400 == pytest.approx(28 / 41, abs=4 * math.sqrt(0.217 / 400))


def test_calibration_makes_the_pulls_of_fresh_events_one() -> None:
    model = trained()
    before = pulls(model, signal(1, 100), ALL, 0)["energy_sigma"].quantile(0.6827)
    scale = calibrate(model, signal(2, 400), signal(4, 400), ALL, 0)
    after = pulls(model, signal(3, 400), ALL, 9)
    assert abs(before - 1.0) > 0.2  # control: an untrained spread is off
    for name in ("energy_sigma", "gamma_time_sigma"):
        assert after[name].quantile(0.6827).item() == pytest.approx(1.0, abs=0.15), name
    assert set(scale) == {"energy", "gamma_time", "uvw", "angle"}
    assert all(0.7 < value < 1.4 for value in scale.values())


def test_a_filling_of_sensors_is_calibrated_without_the_gamma(tmp_path: Path) -> None:
    training = run(trainer("inpaint"))
    description = Checkpoint(training.plan.config, "tiny", parametric().hash, stage="inpaint")
    save_checkpoint(tmp_path, training.model, description)
    calibrate_checkpoint(tmp_path, parametric(), CPU, training.validation, 40, 1)
    model, checkpoint = load_checkpoint(tmp_path, parametric(), ("inpaint",))
    scales = dict(model.sigma_scale.named_buffers())
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
    found = pulls(trained(), [blind], ALL, 0)
    assert len(found["time_sigma"]) == 0
    assert len(found["npho_sigma"]) == int((batch.dead & batch.npho_valid).sum())
