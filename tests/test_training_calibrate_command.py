"""`xec train calibrate`: a checkpoint is calibrated anew, and one is told how well it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from xec.cli import build_app
from xec.detector.geometry import parametric
from xec.errors import ModelError, XecError
from xec.models.build import build_reconstructor, preset
from xec.models.checkpoint import Checkpoint, Stage, load_checkpoint, save_checkpoint
from xec.reliability.record import Reliability


def checkpoint(folder: Path, stage: Stage = "regress") -> Path:
    torch.manual_seed(1)
    model = build_reconstructor(preset("tiny"), parametric())
    described = Checkpoint(preset("tiny"), "tiny", parametric().hash, {"events": 3}, stage=stage)
    save_checkpoint(folder, model, described)
    return folder


def calibrate(folder: Path, *more: str) -> str:
    done = CliRunner().invoke(build_app(), ["train", "calibrate", str(folder), *more])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_checkpoint_is_calibrated_where_it_is(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    before, _ = load_checkpoint(folder, parametric())
    said = calibrate(folder, "--events", "200", "--seed", "3")
    model, described = load_checkpoint(folder, parametric())
    for word in ("pull", "CRPS", "energy", "outside the training's domain"):
        assert word in said
    assert "200 events are too few" in " ".join(said.split())
    assert described.training == {"events": 3, "calibration_events": 200}
    assert set(described.interval_scale) == {"energy", "gamma_time", "uvw", "angle"}
    known = Reliability.from_dict(described.reliability)
    assert known.domain is not None
    assert known.intervals is not None
    assert model.sigma_scale.get_buffer("energy_sigma") != 1.0
    for name, value in before.named_parameters():
        assert torch.equal(model.get_parameter(name), value), name  # the network is the same


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a checkpoint"):
        calibrate(tmp_path)
    folder = checkpoint(tmp_path / "p", "pretrain")
    with pytest.raises(XecError, match="xec train inpaint"):
        calibrate(folder, "--events", "20")
    with pytest.raises(XecError, match="missing"):
        calibrate(checkpoint(tmp_path / "c"), "--data", str(tmp_path / "missing.root"))
