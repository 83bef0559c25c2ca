"""From the bytes of an ONNX model to a session that is known to follow the contract."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from xec.contract import INPUTS, Tensor, outputs_of
from xec.engines.base import ModelInfo
from xec.engines.device import Device
from xec.engines.identity import check_metadata, identity
from xec.engines.providers import providers_of, require_active
from xec.engines.repository import CONFIG_FILE, MODEL_FILE, StoredModel
from xec.engines.triton_config import check_config
from xec.errors import ModelError

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
_NO_GRAPHS: Final = "graph capture"
"""In ONNX Runtime's words about a model with nodes that CUDA does not run."""

log = logging.getLogger(__name__)


def reason_of(error: Exception) -> str:
    """What an error of ONNX Runtime says, in one line and without its code."""
    return " ".join(str(error).rpartition(" : ")[2].split())


def new_session(
    stored: StoredModel, threads: int, device: Device = Device.CPU, largest_batch: int = 1
) -> ort.InferenceSession:
    """A session from the bytes that were read, with so many threads in a call.

    Raises:
        ModelError: ONNX Runtime cannot run these bytes.
        EngineError: the device is not there, or ONNX Runtime does not use it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ORT_LOG_ERRORS
    # Idle threads sleep: the cores are shared with the acquisition and with the other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = _session(stored.content, options, device, largest_batch)
    except ORT_ERRORS as error:
        raise ModelError(
            f"{stored.folder / MODEL_FILE} is not a model that ONNX Runtime can run: "
            f"{reason_of(error)}"
        ) from error
    require_active(session, device)
    return session


def _session(
    content: bytes, options: ort.SessionOptions, device: Device, largest_batch: int
) -> ort.InferenceSession:
    """A session; on CUDA without recorded graphs where the model does not allow them."""
    try:
        providers = providers_of(device, largest_batch)
        return ort.InferenceSession(content, options, providers=providers)
    except ORT_ERRORS as error:
        if device is not Device.CUDA or _NO_GRAPHS not in str(error):
            raise
        log.warning("CUDA runs this model without recorded graphs: %s", reason_of(error))
        providers = providers_of(device, largest_batch, graphs=False)
        return ort.InferenceSession(content, options, providers=providers)


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
    check_metadata(metadata, path)
    for kind, difference in (
        ("inputs", _difference(INPUTS, session.get_inputs())),
        ("outputs", _difference(outputs_of(stored.name), session.get_outputs())),
    ):
        if difference:
            raise ModelError(f"{path} does not follow the contract's {kind}: {difference}.")
    if stored.config is not None:
        config = stored.folder.parent / CONFIG_FILE
        check_config(stored.config, config, stored.name, stored.sha256, metadata)
    return identity(stored, metadata, geometry_hash, "onnx")
