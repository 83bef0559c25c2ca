"""Checkpoints: whole, unaltered, of this contract and geometry, or refused in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xec.detector.geometry import Geometry, parametric
from xec.errors import ModelError
from xec.models.build import build_reconstructor, preset
from xec.models.checkpoint import (
    DESCRIPTION,
    Checkpoint,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from xec.models.reconstructor import Reconstructor


def weights_in(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


def describe(**changes: str) -> Checkpoint:
    checkpoint = Checkpoint(preset("tiny"), "tiny", parametric().hash, {"events": 3}, {"uvw": 1.1})
    return replace(checkpoint, **changes)


@pytest.fixture
def network() -> Reconstructor:
    torch.manual_seed(1)
    return build_reconstructor(preset("tiny"), parametric())


@pytest.fixture
def folder(tmp_path: Path, network: Reconstructor) -> Path:
    save_checkpoint(tmp_path / "c", network, describe())
    return tmp_path / "c"


def test_weights_and_description_come_back(folder: Path, network: Reconstructor) -> None:
    loaded, checkpoint = load_checkpoint(folder, parametric())
    assert checkpoint == describe()
    assert not loaded.training
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_nothing_is_pickled(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [DESCRIPTION, weights_in(folder).name]
    assert int.from_bytes(weights_in(folder).read_bytes()[:8], "little") < 1_000_000
    json.loads((folder / DESCRIPTION).read_text())


def test_altered_weights_are_refused(folder: Path) -> None:
    content = bytearray(weights_in(folder).read_bytes())
    content[-1] ^= 1
    weights_in(folder).write_bytes(content)
    with pytest.raises(ModelError, match="altered"):
        load_checkpoint(folder, parametric())


def test_another_geometry_is_refused(folder: Path) -> None:
    plain = parametric()
    moved = Geometry(plain.position + np.array([0.0, 0.0, 0.01]), plain.normal)
    with pytest.raises(ModelError, match="geometry"):
        load_checkpoint(folder, moved)


def test_another_contract_is_refused(tmp_path: Path, network: Reconstructor) -> None:
    save_checkpoint(tmp_path, network, describe(contract_version="0"))
    with pytest.raises(ModelError, match="contract 0"):
        load_checkpoint(tmp_path, parametric())


@pytest.mark.parametrize("name", ["weights-", DESCRIPTION])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (path,) = folder.glob(f"{name}*")
    path.unlink()
    with pytest.raises(ModelError, match=path.name):
        load_checkpoint(folder, parametric())


def test_saving_again_replaces_and_a_cut_save_leaves_the_old_one(
    folder: Path, network: Reconstructor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights come first under a name of their own; only the description makes them count."""
    before, _ = read_checkpoint(folder, parametric())
    with torch.no_grad():
        network.log_light_yield.add_(1.0)
    real = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == DESCRIPTION:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, network, describe())
    monkeypatch.undo()
    after, _ = read_checkpoint(folder, parametric())
    assert torch.equal(after["log_light_yield"], before["log_light_yield"])
    save_checkpoint(folder, network, describe())
    after, _ = read_checkpoint(folder, parametric())
    assert torch.equal(after["log_light_yield"], before["log_light_yield"] + 1.0)
    assert len(list(folder.glob("weights-*.safetensors"))) == 1


@pytest.mark.parametrize("stage", ["pretrain", "inpaint"])
def test_an_early_stage_is_refused_with_the_next_step(
    tmp_path: Path, network: Reconstructor, stage: str
) -> None:
    save_checkpoint(tmp_path, network, describe(stage=stage))
    with pytest.raises(ModelError, match=r"go on with xec train .* --init"):
        load_checkpoint(tmp_path, parametric())
    assert read_checkpoint(tmp_path, parametric())[1].stage == stage


def test_a_cut_description_is_named(folder: Path) -> None:
    text = (folder / DESCRIPTION).read_text()
    (folder / DESCRIPTION).write_text(text[: len(text) // 2])
    with pytest.raises(ModelError, match=DESCRIPTION):
        load_checkpoint(folder, parametric())


def test_a_description_of_another_kind_is_refused(folder: Path) -> None:
    (folder / DESCRIPTION).write_text("[]")
    with pytest.raises(ModelError, match="not a JSON object"):
        load_checkpoint(folder, parametric())


def test_a_description_without_the_digest_of_the_weights_is_refused(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    del values["weights_sha256"]
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(ModelError, match="not the file that"):
        load_checkpoint(folder, parametric())


def test_a_description_without_an_entry_names_it(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    del values["preset"]
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(ModelError, match="preset"):
        load_checkpoint(folder, parametric())


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    values["config"]["width"] = 32
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(ModelError, match="does not fit"):
        load_checkpoint(folder, parametric())
