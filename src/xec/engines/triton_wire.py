"""Messages of Triton's gRPC protocol for the tensors of the contract, and what its errors mean.

Protocol: github.com/triton-inference-server/common, protobuf/grpc_service.proto, as the package
`tritonclient` carries it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2

from xec.contract import INPUTS, OUTPUTS, Tensor, outputs_of
from xec.engines.base import ModelInfo, Tensors
from xec.engines.priority import Priority
from xec.errors import EngineError

_WIRE_TYPE: Final = {"float32": "FP32", "uint8": "UINT8"}
_CONFIG_TYPE: Final = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
_ITEM_BYTES: Final = {"float32": 4, "uint8": 1}
_FRAMING_BYTES: Final = 64 * 1024

# Triton says UNAVAILABLE for these as it does for a model that is not there; gRPC itself says it
# for a server that is not there. Texts: core/src/scheduler_utils.cc of Triton.
_QUEUE_FULL: Final = "maximum queue size"
_QUEUE_TIMEOUT: Final = "timeout expired"
# Triton 2.51 says INTERNAL of a process of its Python backend that has died, and starts no other.
_WORKER_DEAD: Final = "is not healthy"
_NO_CONNECTION: Final = "failed to connect"  # in gRPC's words, with much else


class Cause(Enum):
    """Why a call to Triton failed."""

    AWAY = auto()
    """The server, or the model in it, is not there."""
    BUSY = auto()
    """Too many requests wait, or one has waited for too long."""
    TOO_LATE = auto()
    """No answer within the time of the call."""
    GIVEN_UP = auto()
    """We cancelled it."""
    FAILED = auto()
    """The server answered with an error of this request."""


def cause_of(error: grpc.RpcError) -> Cause:
    """Why a call failed, from the status of its error."""
    code, text = error.code(), (error.details() or "").lower()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Cause.TOO_LATE
    if code is grpc.StatusCode.CANCELLED:
        return Cause.GIVEN_UP
    if _QUEUE_FULL in text or _QUEUE_TIMEOUT in text:
        return Cause.BUSY
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND) or _WORKER_DEAD in text:
        return Cause.AWAY
    return Cause.FAILED


def text_of(error: grpc.RpcError) -> str:
    """What the other side, or gRPC, says of a failed call, in one line."""
    text = " ".join((error.details() or error.code().name).split())[:300].rstrip(".")
    return "nothing listens there, or it is out of reach" if _NO_CONNECTION in text else text


def largest_message(batch: int) -> int:
    """Bytes that a request or an answer of `batch` events takes at most."""
    rows = max(
        sum(t.width * _ITEM_BYTES[t.dtype] for t in tensors) for tensors in (INPUTS, OUTPUTS)
    )
    return batch * rows + _FRAMING_BYTES


def request_of(
    name: str, version: str, inputs: Tensors, seconds: float, priority: Priority
) -> service_pb2.ModelInferRequest:
    """The request for one batch.

    Args:
        name: of the model in Triton.
        version: its folder.
        inputs: the contract's, each (B, width).
        seconds: after which Triton need not start on it any more, where its configuration lets a
            request say so.
        priority: over other requests.
    """
    request = service_pb2.ModelInferRequest(model_name=name, model_version=version)
    request.parameters["timeout"].int64_param = max(1, int(seconds * 1e6))
    request.parameters["priority"].uint64_param = priority
    for tensor in INPUTS:
        values = inputs[tensor.name]
        request.inputs.add(
            name=tensor.name, datatype=_WIRE_TYPE[tensor.dtype], shape=list(values.shape)
        )
        request.raw_input_contents.append(np.ascontiguousarray(values).tobytes())
    for tensor in outputs_of(name):
        request.outputs.add(name=tensor.name)
    return request


def answer_of(
    response: service_pb2.ModelInferResponse, name: str, batch: int
) -> dict[str, NDArray[np.float32]]:
    """The outputs of a model, each (batch, width), in an answer; read-only.

    Raises:
        EngineError: a tensor is missing or of another type or shape than the contract's.
    """
    contents = dict(
        zip((o.name for o in response.outputs), response.raw_output_contents, strict=False)
    )
    heads = {output.name: output for output in response.outputs}
    found = {}
    for tensor in outputs_of(name):
        head, content = heads.get(tensor.name), contents.get(tensor.name)
        shape = (batch, tensor.width)
        head_fits = head is not None and (tuple(head.shape), head.datatype) == (shape, "FP32")
        if content is None or len(content) != 4 * batch * tensor.width or not head_fits:
            raise EngineError(
                f"Triton answered {tensor.name} in another form than the contract's {shape} of "
                "float32: does it run a model of this version?"
            )
        found[tensor.name] = np.frombuffer(content, dtype="<f4").reshape(shape)
    return found


def _tensor_difference(
    wanted: Iterable[Tensor],
    found: Iterable[model_config_pb2.ModelInput | model_config_pb2.ModelOutput],
) -> str:
    types = model_config_pb2.DataType
    here = {tensor.name: (_CONFIG_TYPE[tensor.dtype], [tensor.width]) for tensor in wanted}
    there = {tensor.name: (types.Name(tensor.data_type), list(tensor.dims)) for tensor in found}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            return f"{name} is {there.get(name)} there and {here.get(name)} here"
    return ""


def config_difference(config: model_config_pb2.ModelConfig, name: str, model: ModelInfo) -> str:
    """What keeps Triton's model from being `model`, or nothing.

    Args:
        config: as Triton reports it.
        name: of the model in Triton.
        model: the one in our repository.
    """
    for key in ("contract_version", "geometry_hash", "sha256"):
        here = getattr(model, key)
        there = config.parameters[key].string_value if key in config.parameters else ""
        if here != there:
            return f"its {key} is {there[:12] or 'not told'} there and {here[:12]} here"
    return _tensor_difference(INPUTS, config.input) or _tensor_difference(
        outputs_of(name), config.output
    )
