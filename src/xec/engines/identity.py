"""Who a model is, from the metadata inside its file and the bytes that were read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from xec.contract import CONTRACT_VERSION
from xec.engines.base import ModelInfo
from xec.engines.repository import MODEL_FILE, StoredModel
from xec.errors import ModelError
from xec.reliability.record import Reliability, reliability_of

_REQUIRED_METADATA: Final = ("contract_version", "model_version", "geometry_hash")


def _interval_scale(metadata: Mapping[str, str], path: Path) -> dict[str, float]:
    try:
        scale = {k: float(v) for k, v in json.loads(metadata.get("interval_scale", "{}")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} has an unreadable interval_scale in its metadata.") from error
    if not all(math.isfinite(value) and value > 0 for value in scale.values()):
        raise ModelError(f"{path} has an interval_scale that is not positive in its metadata.")
    return scale


def _reliability(metadata: Mapping[str, str], path: Path) -> Reliability:
    try:
        return reliability_of(metadata)
    except ModelError as error:
        raise ModelError(f"{path} is refused: {error}") from error


def check_metadata(metadata: Mapping[str, str], path: Path) -> None:
    """Check that a model says who it is, and that it speaks this contract.

    Raises:
        ModelError: an entry is missing, or the contract is another one.
    """
    missing = [key for key in _REQUIRED_METADATA if not metadata.get(key)]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)} in its metadata: export it again.")
    if metadata["contract_version"] != CONTRACT_VERSION:
        raise ModelError(
            f"{path} follows contract version {metadata['contract_version']}; "
            f"this program speaks version {CONTRACT_VERSION}."
        )


def identity(
    stored: StoredModel, metadata: Mapping[str, str], geometry_hash: str | None, engine: str
) -> ModelInfo:
    """The identity of a model that was read.

    Args:
        stored: what was read.
        metadata: of its ONNX file.
        geometry_hash: refuse a model that was made for another geometry; None takes any.
        engine: what runs it.

    Raises:
        ModelError: its contract version, geometry or metadata do not fit.
    """
    path = stored.folder / MODEL_FILE
    check_metadata(metadata, path)
    if geometry_hash is not None and metadata["geometry_hash"] != geometry_hash:
        raise ModelError(
            f"{path} was made for geometry {metadata['geometry_hash'][:12]}…, not for "
            f"{geometry_hash[:12]}…: use a model for the geometry of the events."
        )
    return ModelInfo(
        name=metadata.get("model_name", stored.name),
        version=metadata["model_version"],
        sha256=stored.sha256,
        geometry_hash=metadata["geometry_hash"],
        contract_version=metadata["contract_version"],
        metadata=metadata,
        interval_scale=_interval_scale(metadata, path),
        reliability=_reliability(metadata, path),
        engine=engine,
    )
