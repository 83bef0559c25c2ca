"""A model repository that our server and Triton read: `<model>/<version>/` and configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xec.contract import CONTRACT_VERSION
from xec.engines.golden import GOLDEN_FILE
from xec.engines.repository import MANIFEST_FILE, MODEL_FILE
from xec.lineage import sha256_of_bytes
from xec_export.parity_report import PARITY_FILE
from xec_export.triton_config import (
    FLAVOURS,
    HALF_FILE,
    TORCHSCRIPT_FILE,
    Identity,
    config_pbtxt,
)

CONFIG: Final = "config.pbtxt"
CONFIGS: Final = "configs"
CARD: Final = "README.md"


@dataclass(frozen=True, slots=True)
class Artefacts:
    """What one model's version consists of; the contents of its files.

    Args:
        model: name of the model.
        geometry_hash: of the geometry that it was made for.
        onnx, golden, parity: contents of the files of the version.
        card: of the model, Markdown.
        torchscript: content of the TorchScript module, if it is wanted.
        half: content of the graph with a half-precision encoder, if it is wanted.
    """

    model: str
    geometry_hash: str
    onnx: bytes
    golden: bytes
    parity: bytes
    card: str
    torchscript: bytes | None = None
    half: bytes | None = None

    @property
    def files(self) -> dict[str, bytes]:
        """The version's files by name, without the manifest."""
        found = {MODEL_FILE: self.onnx, GOLDEN_FILE: self.golden, PARITY_FILE: self.parity}
        optional = {TORCHSCRIPT_FILE: self.torchscript, HALF_FILE: self.half}
        return found | {name: content for name, content in optional.items() if content is not None}

    def configs(self) -> dict[str, str]:
        """Triton's configurations by flavour, for the files that there are."""
        digests = {name: sha256_of_bytes(content) for name, content in self.files.items()}
        return {
            flavour: config_pbtxt(
                flavour, Identity(self.model, digests[settings.file], self.geometry_hash)
            )
            for flavour, settings in FLAVOURS.items()
            if settings.file in digests
        }


def write_model(repository: Path, version: str, artefacts: Artefacts) -> Path:
    """Write one version of a model; the manifest comes last, so a cut write is noticed.

    Files of an earlier export of the same version that this one does not have are removed.
    Configurations and card are those of the newest version: an older one leaves them alone.

    Returns:
        The folder of the version.
    """
    model = repository / artefacts.model
    folder = model / version
    folder.mkdir(parents=True, exist_ok=True)
    (model / CONFIGS).mkdir(exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for name, content in artefacts.files.items():
        _write(folder / name, content)
    for name in {settings.file for settings in FLAVOURS.values()} - set(artefacts.files):
        (folder / name).unlink(missing_ok=True)
    if _is_newest(model, version):
        _write_of_model(model, artefacts)
    _write(folder / MANIFEST_FILE, _manifest(artefacts.files))
    return folder


def _is_newest(model: Path, version: str) -> bool:
    return int(version) == max(int(p.name) for p in model.iterdir() if p.name.isdecimal())


def _write_of_model(model: Path, artefacts: Artefacts) -> None:
    """Configurations and card, which all versions share."""
    configs = artefacts.configs()
    for flavour, text in configs.items():
        _write(model / CONFIGS / f"{flavour}.pbtxt", text.encode())
    for flavour in FLAVOURS.keys() - configs.keys():
        (model / CONFIGS / f"{flavour}.pbtxt").unlink(missing_ok=True)
    _write(model / CONFIG, configs["cpu"].encode())
    _write(model / CARD, artefacts.card.encode())


def _manifest(files: Mapping[str, bytes]) -> bytes:
    entries = {
        name: {"sha256": sha256_of_bytes(content), "bytes": len(content)}
        for name, content in files.items()
    }
    manifest = {"contract_version": CONTRACT_VERSION, "files": entries}
    return (json.dumps(manifest, indent=2) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)
