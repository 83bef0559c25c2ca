"""From the bytes of an ONNX model to a session that is known to follow the contract."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from xec.contract import CONTRACT_VERSION, INPUTS, Tensor, outputs_of
from xec.engines.base import ModelInfo
from xec.engines.repository import CONFIG_FILE, MODEL_FILE, StoredModel
from xec.engines.triton_config import check_config
from xec.errors import ModelError
from xec.reliability.record import Reliability, reliability_of

ORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_ORT_TYPE: Final = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}
_ORT_LOG_ERRORS: Final = 3
_REQUIRED_METADATA: Final = ("contract_version", "model_version", "geometry_hash")


def reason_of(error: Exception) -> str:
    """What an error of ONNX Runtime says, in one line and without its code."""
    return " ".join(str(error).rpartition(" : ")[2].split())


def new_session(stored: StoredModel, threads: int) -> ort.InferenceSession:
    """A session on the CPU from the bytes that were read, with so many threads in a call.

    Raises:
        ModelError: ONNX Runtime cannot run these bytes.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ORT_LOG_ERRORS
    # Idle threads sleep: the cores are shared with the acquisition and with the other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(stored.content, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise ModelError(
            f"{stored.folder / MODEL_FILE} is not a model that ONNX Runtime can run: "
            f"{reason_of(error)}"
        ) from error


def _signature(nodes: Sequence[ort.NodeArg]) -> dict[str, tuple[str, list[int | str | None]]]:
    return {node.name: (node.type, node.shape) for node in nodes}


def _difference(wanted: Sequence[Tensor], nodes: Sequence[ort.NodeArg]) -> str:
    """What differs from the contract's tensors, or nothing.

    A width that the graph leaves open is settled by the warm-up, which looks at real outputs.
    """
    found = _signature(nodes)
    names = {tensor.name for tensor in wanted}
    if names != found.keys():
        missing, surplus = sorted(names - found.keys()), sorted(found.keys() - names)
        return f"missing {', '.join(missing) or 'none'}; unknown {', '.join(surplus) or 'none'}"
    for tensor in wanted:
        kind, shape = found[tensor.name]
        fits = len(shape) == 2 and not isinstance(shape[0], int)
        if not fits or (isinstance(shape[1], int) and shape[1] != tensor.width):
            return f"{tensor.name} has shape {shape}, not ['batch', {tensor.width}]"
        if kind != _ORT_TYPE[tensor.dtype]:
            return f"{tensor.name} is a {kind}, not a {_ORT_TYPE[tensor.dtype]}"
    return ""


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


def _check_metadata(metadata: Mapping[str, str], path: Path) -> None:
    missing = [key for key in _REQUIRED_METADATA if not metadata.get(key)]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)} in its metadata: export it again.")
    if metadata["contract_version"] != CONTRACT_VERSION:
        raise ModelError(
            f"{path} follows contract version {metadata['contract_version']}; "
            f"this program speaks version {CONTRACT_VERSION}."
        )


def model_info(
    stored: StoredModel, session: ort.InferenceSession, geometry_hash: str | None
) -> ModelInfo:
    """The identity of a loaded model, after comparing it with the contract.

    Args:
        stored: what was read.
        session: made from it.
        geometry_hash: refuse a model that was made for another geometry; None takes any.

    Raises:
        ModelError: its tensors, contract version, geometry or metadata do not fit.
    """
    path = stored.folder / MODEL_FILE
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    _check_metadata(metadata, path)
    for kind, difference in (
        ("inputs", _difference(INPUTS, session.get_inputs())),
        ("outputs", _difference(outputs_of(stored.name), session.get_outputs())),
    ):
        if difference:
            raise ModelError(f"{path} does not follow the contract's {kind}: {difference}.")
    if stored.config is not None:
        config = stored.folder.parent / CONFIG_FILE
        check_config(stored.config, config, stored.name, stored.sha256, metadata)
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
    )
