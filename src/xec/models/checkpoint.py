"""Checkpoints: weights by safetensors, everything else by JSON beside them; never pickle.

The weights' file is named by its content and the description names it, so that replacing the
description is the one step that replaces a checkpoint: a process killed at any moment leaves the
old one or the new one, whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from xec.contract import CONTRACT_VERSION
from xec.detector.geometry import Geometry
from xec.errors import ModelError
from xec.lineage import sha256_of_bytes
from xec.models.build import ModelConfig, build_reconstructor, config_as_dict, config_from_dict
from xec.models.calibration import curves_from_dict
from xec.models.reconstructor import Reconstructor

DESCRIPTION: Final = "checkpoint.json"

Stage = Literal["pretrain", "inpaint", "regress"]
"""How far a training has come: an encoder, one that fills sensors, one that also measures."""

NEXT_STEP: Final[Mapping[str, str]] = {
    "pretrain": "holds a pretrained encoder only; go on with xec train inpaint --init",
    "inpaint": "fills sensors but has not learned the gamma; go on with xec train regress --init",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network and what is known about it.

    Args:
        config: its numbers.
        preset: the name under which they are known.
        geometry_hash: of the geometry it was trained on.
        training: settings, events seen, seed and whatever else tells how it came about.
        interval_scale: per gamma estimate, half of the 68 % interval in units of sigma.
        sigma_curves: of the sigmas by what is predicted (`xec.models.calibration.Curves`).
        reliability: the model's limits (`xec.reliability.record`); goes into its metadata.
        contract_version: of the tensors that it speaks.
        stage: how far it has come.
    """

    config: ModelConfig
    preset: str
    geometry_hash: str
    training: Mapping[str, Any] = field(default_factory=dict)
    interval_scale: Mapping[str, float] = field(default_factory=dict)
    sigma_curves: Mapping[str, Any] = field(default_factory=dict)
    reliability: Mapping[str, Any] = field(default_factory=dict)
    contract_version: str = CONTRACT_VERSION
    stage: Stage = "regress"


def save_checkpoint(folder: Path, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Write weights and description into `folder`; the checkpoint there before is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = save(state)
    digest = sha256_of_bytes(content)
    name = f"weights-{digest[:12]}.safetensors"
    description = {
        "stage": checkpoint.stage,
        "config": config_as_dict(checkpoint.config),
        "preset": checkpoint.preset,
        "geometry_hash": checkpoint.geometry_hash,
        "training": dict(checkpoint.training),
        "interval_scale": dict(checkpoint.interval_scale),
        "sigma_curves": dict(checkpoint.sigma_curves),
        "reliability": dict(checkpoint.reliability),
        "contract_version": checkpoint.contract_version,
        "weights": name,
        "weights_sha256": digest,
    }
    _replace(folder / name, content)
    _replace(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())
    for old in folder.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    """Write a file that appears whole, and survives a power cut once this returns."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_checkpoint(folder: Path, geometry: Geometry) -> tuple[dict[str, Tensor], Checkpoint]:
    """Weights and description of a checkpoint of any stage.

    Raises:
        ModelError: missing or damaged files, another contract or another geometry.
    """
    description = _read_description(folder)
    checkpoint = _checkpoint_of(description)
    _check_identity(folder, checkpoint, geometry)
    weights = folder / Path(str(description.get("weights", "weights.safetensors"))).name
    try:
        content = weights.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{folder} has no {weights.name}; it is not a whole checkpoint."
        ) from error
    if sha256_of_bytes(content) != description.get("weights_sha256"):
        raise ModelError(f"{weights} is not the file that {DESCRIPTION} describes; it was altered.")
    try:
        return load(content), checkpoint
    except SafetensorError as error:
        raise ModelError(f"{weights} cannot be read: {error}.") from error


def load_checkpoint(
    folder: Path, geometry: Geometry, stages: tuple[Stage, ...] = ("regress",)
) -> tuple[Reconstructor, Checkpoint]:
    """Read a checkpoint and build its network, in evaluation mode.

    Args:
        folder: what `xec train` wrote.
        geometry: which must be that of its training.
        stages: which are wanted.

    Raises:
        ModelError: as `read_checkpoint`, a stage that is not wanted, curves that are none.
    """
    state, checkpoint = read_checkpoint(folder, geometry)
    if checkpoint.stage not in stages:
        raise ModelError(f"{folder} {NEXT_STEP.get(checkpoint.stage, 'is finished')} {folder}.")
    model = build_reconstructor(checkpoint.config, geometry)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{folder} does not fit the network it describes: {error}") from error
    model.sigma_scale.set_curves(curves_from_dict(checkpoint.sigma_curves))
    return model.eval(), checkpoint


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a checkpoint: it has no {DESCRIPTION}.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    if not isinstance(description, dict):
        raise ModelError(f"{path} is not a JSON object: train the network again.")
    return description


def _checkpoint_of(description: Mapping[str, Any]) -> Checkpoint:
    try:
        return Checkpoint(
            config=config_from_dict(description["config"]),
            preset=description["preset"],
            geometry_hash=description["geometry_hash"],
            training=description["training"],
            interval_scale=description["interval_scale"],
            # Checkpoints of before they were measured have none: one factor per task serves.
            sigma_curves=description.get("sigma_curves", {}),
            reliability=description.get("reliability", {}),
            contract_version=description["contract_version"],
            stage=description["stage"],
        )
    except KeyError as error:
        raise ModelError(f"{DESCRIPTION} lacks the entry {error}.") from error


def _check_identity(folder: Path, checkpoint: Checkpoint, geometry: Geometry) -> None:
    if checkpoint.contract_version != CONTRACT_VERSION:
        raise ModelError(
            f"{folder} was trained for contract {checkpoint.contract_version}, "
            f"this program speaks {CONTRACT_VERSION}; train or export it anew."
        )
    if checkpoint.geometry_hash != geometry.hash:
        raise ModelError(
            f"{folder} was trained on geometry {checkpoint.geometry_hash[:12]}, not on "
            f"{geometry.hash[:12]}; use the geometry file of its training."
        )
