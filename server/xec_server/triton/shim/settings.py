"""What `config.pbtxt` says, as Triton hands it to a backend; what is unknown is refused.

Parameters keep the names of Triton's own ONNX Runtime backend where it has them, so that one
configuration serves both. Source: its README, "Model Config Options" and "Execution providers".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from xec.errors import ModelError

Signature = dict[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor to its element type, in ONNX Runtime's words, and the dimensions of an event."""

_ELEMENT: Final = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}
_HANDLED_BY_TRITON: Final = frozenset(
    [
        "name",
        "platform",
        "backend",
        "runtime",
        "version_policy",
        "max_batch_size",
        "input",
        "output",
        "dynamic_batching",
        "instance_group",
        "default_model_filename",
        "metric_tags",
        "parameters",
        "model_warmup",
        "optimization",
        "response_cache",
        "model_transaction_policy",
    ]
)
_INFORMATION: Final = frozenset(("sha256", "contract_version", "geometry_hash", "model_version"))
_PARAMETERS: Final = _INFORMATION | {
    "intra_op_thread_count",
    "inter_op_thread_count",
    "largest_batch",
    "calls_at_once",
    "reproducible",
}
_DEFAULT_OPTIMIZATION: Final = frozenset(
    [
        "priority",
        "input_pinned_memory",
        "output_pinned_memory",
        "gather_kernel_buffer_threshold",
        "eager_batching",
        "graph",
        "execution_accelerators",
    ]
)
_GRAPH_LEVELS: Final = {"": "all", "0": "all", "1": "extended", "-1": "basic", "2": "off"}
_PROVIDERS: Final = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """An execution provider with its options, both in ONNX Runtime's names."""

    provider: str
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is run.

    Args:
        model_file: name of the file in the version's folder.
        sha256: of that file; None where the configuration names none.
        inputs: of the configuration.
        outputs: of the configuration.
        max_batch: events in one call of Triton's.
        largest_batch: events in one call of ONNX Runtime; a call of Triton's is cut into such.
        calls_at_once: calls of ONNX Runtime side by side in one instance; 0 in the configuration
            means one for each core that may be used.
        warm: batch sizes to run before the model is ready.
        threads: within one operator; 0 lets ONNX Runtime choose.
        graph_level: of ONNX Runtime's rewriting: all, extended, basic or off.
        accelerators: execution providers that the configuration asks for, preferred first.
    """

    model_file: str
    sha256: str | None
    inputs: Signature
    outputs: Signature
    max_batch: int
    largest_batch: int
    calls_at_once: int
    warm: tuple[int, ...]
    threads: int
    graph_level: str
    accelerators: tuple[Accelerator, ...]


def settings_of(config: str) -> Settings:
    """Read the configuration that Triton hands over.

    Args:
        config: JSON of Triton's `ModelConfig`.

    Raises:
        ModelError: it holds a setting that this backend does not follow, or contradicts itself.
    """
    content = json.loads(config)
    model = str(content.get("name"))
    surplus = [key for key, value in content.items() if value and key not in _HANDLED_BY_TRITON]
    _refuse_unknown("setting", surplus, model)
    parameters = {key: value["string_value"] for key, value in content["parameters"].items()}
    _refuse_unknown("parameter", set(parameters) - _PARAMETERS, model)
    max_batch = int(content["max_batch_size"])
    if max_batch < 1:
        raise ModelError(f"The configuration of {model} must have a max_batch_size of 1 or more.")
    optimization = content.get("optimization", {})
    _refuse_unknown("optimization", set(optimization) - _DEFAULT_OPTIMIZATION, model)
    largest = _largest_batch(parameters, max_batch, model)
    return Settings(
        model_file=content.get("default_model_filename") or "model.onnx",
        sha256=parameters.get("sha256"),
        inputs=_signature(content["input"]),
        outputs=_signature(content["output"]),
        max_batch=max_batch,
        largest_batch=largest,
        calls_at_once=_whole(parameters, "calls_at_once", 0, model, 1) or usable_cores(),
        warm=_warm(content, max_batch, largest),
        threads=_threads(parameters, model),
        graph_level=_graph_level(optimization, model),
        accelerators=_accelerators(optimization, model),
    )


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _refuse_unknown(kind: str, names: Iterable[str], model: str) -> None:
    if unknown := ", ".join(sorted(names)):
        raise ModelError(
            f"The configuration of {model} has the {kind} {unknown}, which this backend does not "
            "follow: remove it."
        )


def _signature(tensors: Iterable[Mapping[str, Any]]) -> Signature:
    return {
        tensor["name"]: (
            _ELEMENT.get(tensor["data_type"], tensor["data_type"]),
            tuple(int(size) for size in tensor["dims"]),
        )
        for tensor in tensors
    }


def _whole(parameters: Mapping[str, str], key: str, least: int, model: str, default: int) -> int:
    text = parameters.get(key, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ModelError(
            f"The parameter {key} of {model} is {text!r}: write a whole number of {least} or more."
        )
    return int(text)


def _threads(parameters: Mapping[str, str], model: str) -> int:
    between = _whole(parameters, "inter_op_thread_count", 0, model, 1)
    if between > 1:
        raise ModelError(
            f"The parameter inter_op_thread_count of {model} is {between}, but its operators run "
            "one after the other: write 1, and raise intra_op_thread_count or the instances."
        )
    return _whole(parameters, "intra_op_thread_count", 0, model, 1)


def _largest_batch(parameters: Mapping[str, str], max_batch: int, model: str) -> int:
    flag = parameters.get("reproducible", "false")
    if flag not in ("true", "false"):
        raise ModelError(f"The parameter reproducible of {model} is {flag!r}: write true or false.")
    largest = _whole(parameters, "largest_batch", 1, model, 1 if flag == "true" else max_batch)
    if flag == "true" and largest != 1:
        raise ModelError(
            f"The configuration of {model} contradicts itself: answers are reproducible with a "
            f"largest_batch of 1 only, and it is {largest}."
        )
    return min(largest, max_batch)


def _warm(content: Mapping[str, Any], max_batch: int, largest: int) -> tuple[int, ...]:
    """Every size that one call of ONNX Runtime is expected to have."""
    batching = content.get("dynamic_batching") or {}
    wanted = {1, max_batch, *(int(size) for size in batching.get("preferred_batch_size", ()))}
    return tuple(sorted({min(size, largest) for size in wanted}))


def _graph_level(optimization: Mapping[str, Any], model: str) -> str:
    level = str((optimization.get("graph") or {}).get("level", ""))
    if level not in _GRAPH_LEVELS:
        raise ModelError(f"The graph level {level} of {model} is unknown: write -1, 1 or 2.")
    return _GRAPH_LEVELS[level]


def _accelerators(optimization: Mapping[str, Any], model: str) -> tuple[Accelerator, ...]:
    wanted = optimization.get("execution_accelerators") or {}
    on_cpu = [str(entry["name"]) for entry in wanted.get("cpu_execution_accelerator", ())]
    _refuse_unknown("CPU accelerator", on_cpu, model)
    on_gpu = wanted.get("gpu_execution_accelerator", ())
    _refuse_unknown("GPU accelerator", {str(e["name"]) for e in on_gpu} - set(_PROVIDERS), model)
    return tuple(
        _accelerator(entry["name"], entry.get("parameters") or {}, model) for entry in on_gpu
    )


def _accelerator(name: str, parameters: Mapping[str, str], model: str) -> Accelerator:
    """From Triton's names of options to those of ONNX Runtime, which are the same but for two."""
    options = dict(parameters)
    if name == "tensorrt":
        precision = options.pop("precision_mode", "FP32")
        if precision not in ("FP32", "FP16"):
            raise ModelError(f"The precision_mode of {model} is {precision}: write FP32 or FP16.")
        options["trt_fp16_enable"] = str(int(precision == "FP16"))
        if "max_workspace_size_bytes" in options:
            options["trt_max_workspace_size"] = options.pop("max_workspace_size_bytes")
    return Accelerator(_PROVIDERS[name], options)
