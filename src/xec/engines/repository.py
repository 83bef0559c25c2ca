"""Models on disk: `<repository>/<name>/<version>/model.onnx` and the manifest beside it.

The layout is Triton's, so that one repository serves every engine. The manifest holds the digest
of every file of the version; one that is missing or altered makes the whole version unusable, as
do golden events that it does not vouch for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xec.contract import MODEL_NAME
from xec.engines.golden import GOLDEN_FILE
from xec.errors import ModelError
from xec.lineage import sha256_of_bytes

MODEL_FILE: Final = "model.onnx"
MANIFEST_FILE: Final = "manifest.json"
CONFIG_FILE: Final = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as read from its repository: `sha256` is that of exactly these bytes.

    `golden` is the content of its golden events, and `config` the text of Triton's configuration;
    None where there are none. The configuration belongs to the newest version.
    """

    name: str
    folder: Path
    content: bytes
    sha256: str
    golden: bytes | None = None
    config: str | None = None


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


def _promised(manifest: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The digest of each file that the manifest names.

    Raises:
        ModelError: it is of another form, names no model, or a file outside its folder.
    """
    try:
        promised = {str(name): str(e["sha256"]) for name, e in manifest["files"].items()}
        promised[MODEL_FILE]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"The manifest {path} names no sha256 of {MODEL_FILE}: export the model again."
        ) from error
    for name in promised:
        if Path(name).name != name:
            raise ModelError(f"The manifest {path} names {name!r}, which is not beside it.")
    return promised


def _checked(path: Path, promised: str) -> bytes:
    """The content of a file whose digest is known."""
    content = _read(path)
    sha256 = sha256_of_bytes(content)
    if sha256 != promised:
        raise ModelError(
            f"{path} is corrupted or was changed: its sha256 {sha256[:12]}… is not the "
            f"manifest's {promised[:12]}…; copy or export the model again."
        )
    return content


def read_model(repository: Path, name: str = MODEL_NAME, version: int | None = None) -> StoredModel:
    """Read a model once and compare the bytes of all its files with the manifest.

    Args:
        repository: the folder that holds the models.
        name: of the model.
        version: of the model; the highest one by default.

    Raises:
        ModelError: a file is missing or differs from the manifest, or the manifest is unusable.
    """
    folder = version_folder(repository, name, version)
    path = folder / MANIFEST_FILE
    promised = _promised(read_manifest(folder), path)
    if GOLDEN_FILE not in promised and (folder / GOLDEN_FILE).exists():
        raise ModelError(f"{path} does not vouch for {GOLDEN_FILE}: export the model again.")
    kept = {}
    for file, sha256 in promised.items():
        content = _checked(folder / file, sha256)
        if file in (MODEL_FILE, GOLDEN_FILE):
            kept[file] = content
    newest = folder == version_folder(repository, name)
    return StoredModel(
        name,
        folder,
        kept[MODEL_FILE],
        promised[MODEL_FILE],
        kept.get(GOLDEN_FILE),
        _config(folder.parent / CONFIG_FILE) if newest else None,
    )


def _config(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not text: export the model again.") from error
