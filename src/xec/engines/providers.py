"""Where ONNX Runtime computes: its execution providers, and whether they are really at work.

ONNX Runtime takes a list of providers and silently leaves out those that do not load; the CPU
then does the work at a tenth of the speed. So what was asked for is looked for in the session.

Provider options: onnxruntime.ai/docs/execution-providers, CUDA and TensorRT.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from xec.contract import INPUTS
from xec.engines.device import Device
from xec.errors import EngineError

_PROVIDER: Final = {
    Device.CPU: "CPUExecutionProvider",
    Device.CUDA: "CUDAExecutionProvider",
    Device.TENSORRT: "TensorrtExecutionProvider",
}
_OPTIONS: Final[Mapping[Device, Mapping[str, str]]] = {
    Device.CPU: {},
    Device.CUDA: {
        "device_id": "0",
        # Only what is needed, in exact steps: the GPU may be shared with a training.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        # float32 stays float32: the answers are compared with those of the CPU.
        "use_tf32": "0",
    },
    Device.TENSORRT: {
        "device_id": "0",
        "trt_cuda_graph_enable": "1",
        # Building an engine takes minutes.
        "trt_engine_cache_enable": "1",
        "trt_fp16_enable": "0",
    },
}


def providers_of(
    device: Device, largest_batch: int, graphs: bool = True
) -> list[tuple[str, dict[str, Any]]]:
    """The providers of a session on a device, the wanted one first.

    Nodes that TensorRT cannot take go to CUDA, and what neither takes (shapes) to the CPU.

    Args:
        device: where to compute.
        largest_batch: events in one call; TensorRT builds its engine for 1 up to this.
        graphs: record the launches of each batch size on CUDA; a small network is bound by them
            otherwise. TensorRT does so by itself, and two that record would disturb each other.

    Raises:
        EngineError: this build of ONNX Runtime does not have the provider.
    """
    require_present(device)
    chain = {
        Device.CPU: (Device.CPU,),
        Device.CUDA: (Device.CUDA, Device.CPU),
        Device.TENSORRT: (Device.TENSORRT, Device.CUDA, Device.CPU),
    }[device]
    options = {member: dict(_OPTIONS[member]) for member in chain}
    if device is Device.TENSORRT:
        options[Device.TENSORRT].update(_profiles(largest_batch))
        options[Device.TENSORRT]["trt_engine_cache_path"] = str(_cache_folder())
    if device is Device.CUDA:
        options[Device.CUDA]["enable_cuda_graph"] = "1" if graphs else "0"
    return [(_PROVIDER[member], options[member]) for member in chain]


def _cache_folder() -> Path:
    """Where TensorRT keeps the engines that it built: `XDG_CACHE_HOME`, or `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "xec-reconstruct" / "tensorrt"


def records_graphs(session: ort.InferenceSession) -> bool:
    """Whether the CUDA provider of a session records its launches."""
    options = session.get_provider_options().get(_PROVIDER[Device.CUDA], {})
    return str(options.get("enable_cuda_graph", "0")) == "1"


def _profiles(largest_batch: int) -> dict[str, str]:
    """TensorRT's range of input shapes: smallest, the one to be fast at, largest."""

    def shapes(batch: int) -> str:
        return ",".join(f"{tensor.name}:{batch}x{tensor.width}" for tensor in INPUTS)

    return {
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(largest_batch),
        "trt_profile_max_shapes": shapes(largest_batch),
    }


def require_present(device: Device) -> None:
    """Refuse a device that this build of ONNX Runtime does not know.

    Raises:
        EngineError: it does not know it.
    """
    if _PROVIDER[device] not in ort.get_available_providers():
        raise EngineError(
            f"This onnxruntime ({ort.__version__}) has no {_PROVIDER[device]}: install "
            "'xec-reconstruct[gpu]' in place of [server], or say --device cpu."
        )


def require_active(session: ort.InferenceSession, device: Device) -> None:
    """Refuse a session in which the device's provider is not at work.

    Raises:
        EngineError: ONNX Runtime fell back to another one.
    """
    active = session.get_providers()
    if not active or active[0] != _PROVIDER[device]:
        raise EngineError(
            f"ONNX Runtime did not load its {_PROVIDER[device]} and would compute by "
            f"{', '.join(active) or 'nothing'} instead: look at the GPU's driver and at the CUDA, "
            "cuDNN and TensorRT libraries that onnxruntime-gpu asks for, or say --device cpu."
        )
