"""Checkpoints: weights by safetensors, everything else by JSON beside them; never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from xec.contract import CONTRACT_VERSION
from xec.detector.geometry import Geometry
from xec.errors import ModelError
from xec.lineage import sha256_of_file
from xec.models.build import ModelConfig, build_reconstructor, config_as_dict, config_from_dict
from xec.models.reconstructor import Reconstructor

WEIGHTS: Final = "weights.safetensors"
DESCRIPTION: Final = "checkpoint.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network and what is known about it.

    Args:
        config: its numbers.
        preset: the name under which they are known.
        geometry_hash: of the geometry it was trained on.
        training: command, events seen, seed and whatever else tells how it came about.
        interval_scale: per gamma estimate, half of the 68 % interval in units of sigma.
    """

    config: ModelConfig
    preset: str
    geometry_hash: str
    training: Mapping[str, Any] = field(default_factory=dict)
    interval_scale: Mapping[str, float] = field(default_factory=dict)
    contract_version: str = CONTRACT_VERSION


def save_checkpoint(folder: Path, model: Reconstructor, checkpoint: Checkpoint) -> None:
    """Write weights and description into `folder`; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    partial = folder / f"{WEIGHTS}.part"
    save_file(state, partial)
    description = {
        "config": config_as_dict(checkpoint.config),
        "preset": checkpoint.preset,
        "geometry_hash": checkpoint.geometry_hash,
        "training": dict(checkpoint.training),
        "interval_scale": dict(checkpoint.interval_scale),
        "contract_version": checkpoint.contract_version,
        "weights_sha256": sha256_of_file(partial),
    }
    text = folder / f"{DESCRIPTION}.part"
    text.write_text(json.dumps(description, indent=2) + "\n")
    partial.replace(folder / WEIGHTS)
    text.replace(folder / DESCRIPTION)


def load_checkpoint(folder: Path, geometry: Geometry) -> tuple[Reconstructor, Checkpoint]:
    """Read a checkpoint and build its network, in evaluation mode.

    Raises:
        ModelError: missing or damaged files, another contract or another geometry.
    """
    description = _read_description(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}; it is not a whole checkpoint.")
    if sha256_of_file(weights) != description.get("weights_sha256"):
        raise ModelError(f"{weights} is not the file that {DESCRIPTION} describes; it was altered.")
    checkpoint = _checkpoint_of(description)
    _check_identity(folder, checkpoint, geometry)
    model = build_reconstructor(checkpoint.config, geometry)
    try:
        model.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(f"{weights} does not fit the network it describes: {error}") from error
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
            contract_version=description["contract_version"],
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
