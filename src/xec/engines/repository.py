"""Models on disk: `<repository>/<name>/<version>/model.onnx` and the manifest beside it.

The layout is Triton's, so that one repository serves every engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xec.contract import MODEL_NAME
from xec.errors import ModelError
from xec.lineage import sha256_of_bytes

MODEL_FILE: Final = "model.onnx"
MANIFEST_FILE: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as read from its repository: `sha256` is that of exactly these bytes."""

    name: str
    folder: Path
    content: bytes
    sha256: str


def _versions(model: Path) -> dict[int, Path]:
    return {int(entry.name): entry for entry in model.iterdir() if entry.name.isdecimal()}


def version_folder(repository: Path, name: str = MODEL_NAME, version: int | None = None) -> Path:
    """The folder of one version of a model; the highest one unless a version is given.

    Raises:
        ModelError: there is no such repository, model or version.
    """
    if not repository.is_dir():
        raise ModelError(
            f"There is no model repository at {repository}: name its folder with --model."
        )
    model = repository / name
    if not model.is_dir():
        raise ModelError(f"The model repository {repository} has no model named {name}.")
    versions = _versions(model)
    if not versions:
        raise ModelError(f"The model {model} has no version: a folder named by an integer.")
    wanted = max(versions) if version is None else version
    if wanted not in versions:
        known = ", ".join(map(str, sorted(versions)))
        raise ModelError(f"The model {model} has no version {wanted}; there is {known}.")
    return versions[wanted]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}; copy or export the model again."
        ) from error


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a version's folder.

    Raises:
        ModelError: it is missing, or not a JSON object.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(_read(path))
    except ValueError as error:
        raise ModelError(f"The manifest {path} is not JSON: export the model again.") from error
    if not isinstance(manifest, dict):
        raise ModelError(f"The manifest {path} is not a JSON object: export the model again.")
    return manifest


def _promised_sha256(manifest: Mapping[str, Any], path: Path) -> str:
    try:
        return str(manifest["files"][MODEL_FILE]["sha256"])
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"The manifest {path} names no sha256 of {MODEL_FILE}: export the model again."
        ) from error


def read_model(repository: Path, name: str = MODEL_NAME, version: int | None = None) -> StoredModel:
    """Read a model once and compare its bytes with the manifest.

    Args:
        repository: the folder that holds the models.
        name: of the model.
        version: of the model; the highest one by default.

    Raises:
        ModelError: it is missing, has no usable manifest, or differs from the manifest.
    """
    folder = version_folder(repository, name, version)
    promised = _promised_sha256(read_manifest(folder), folder / MANIFEST_FILE)
    content = _read(folder / MODEL_FILE)
    sha256 = sha256_of_bytes(content)
    if sha256 != promised:
        raise ModelError(
            f"{folder / MODEL_FILE} is corrupted or was changed: its sha256 {sha256[:12]}… is not "
            f"the manifest's {promised[:12]}…; copy or export the model again."
        )
    return StoredModel(name, folder, content, sha256)
