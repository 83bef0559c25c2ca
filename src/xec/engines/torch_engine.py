"""PyTorch as an engine: the reference in tests, and the way onto GPUs without onnxruntime-gpu.

It runs a checkpoint, or the TorchScript file that `xec export` writes beside the ONNX graph. On
CUDA each batch size has buffers of its own and a recorded graph of launches, for a small network
is bound by launches otherwise. Recording: pytorch.org/docs, torch.cuda.CUDAGraph.

The one engine that needs torch; nothing else in this room or in the server imports it.
"""

from __future__ import annotations

import io
import json
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xec.contract import INPUTS, MODEL_NAME, outputs_of
from xec.detector.geometry import Geometry, parametric
from xec.engines.base import ModelInfo, Tensors
from xec.engines.device import Device, buckets_up_to
from xec.engines.golden import GOLDEN_FILE, golden_of
from xec.engines.identity import identity
from xec.engines.onnx_bytes import metadata_of
from xec.engines.repository import read_manifest, read_model
from xec.errors import EngineError, ModelError
from xec.models.checkpoint import DESCRIPTION, load_checkpoint
from xec.reliability.record import Reliability

Outputs = dict[str, NDArray[np.float32]]
Network = Callable[..., Mapping[str, Tensor] | Sequence[Tensor]]
"""From the contract's inputs to its outputs, by name or in the contract's order."""

SCRIPT_FILE: Final = "model.pt"
_DTYPES: Final = {"float32": torch.float32, "uint8": torch.uint8}
_WARM_UPS: Final = 3  # runs before recording, as PyTorch asks for: they set up libraries


def _by_name(
    outputs: Mapping[str, Tensor] | Sequence[Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    if isinstance(outputs, Mapping):
        return {name: outputs[name] for name in names}
    return dict(zip(names, outputs, strict=True))


class _Recorded:
    """A network on CUDA at one batch size: fixed buffers, one recorded graph.

    Runs on the current stream; not to be used by two threads at once.
    """

    def __init__(self, network: Network, size: int, names: Sequence[str]) -> None:
        self.size = size
        self._inputs = {
            t.name: torch.ones(size, t.width, dtype=_DTYPES[t.dtype], device="cuda") for t in INPUTS
        }
        self._host = {
            t.name: torch.empty(size, t.width, dtype=_DTYPES[t.dtype], pin_memory=True)
            for t in INPUTS
        }
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                network(*self._inputs.values())
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = _by_name(network(*self._inputs.values()), names)

    def run(self, inputs: Tensors) -> Outputs:
        B = len(inputs["npho"])
        for name, host in self._host.items():
            host[:B].copy_(torch.from_numpy(np.ascontiguousarray(inputs[name])))
            self._inputs[name][:B].copy_(host[:B], non_blocking=True)
        self._graph.replay()
        # The copies wait for the graph; rows beyond B hold an older event, and go nowhere.
        return {name: value[:B].cpu().numpy() for name, value in self._outputs.items()}


class TorchEngine:
    """A network run by PyTorch.

    `infer` may be called from several threads; on CUDA one call runs at a time.

    Args:
        network: in evaluation mode; moved to the device by the caller.
        model: who it is.
        device: CPU or CUDA.
        largest_batch: events in one call; more are cut into several.
        name: tells which outputs it has.
    """

    def __init__(
        self,
        network: Network,
        model: ModelInfo,
        device: Device,
        largest_batch: int = 64,
        name: str = MODEL_NAME,
    ) -> None:
        self._network = network
        self._names = [tensor.name for tensor in outputs_of(name)]
        self._model = model
        self._largest = largest_batch
        self._lock = threading.Lock()
        self._closed = False
        self._recorded: list[_Recorded] = []
        if device is Device.CUDA:
            with torch.inference_mode():
                self._recorded = [
                    _Recorded(network, size, self._names) for size in buckets_up_to(largest_batch)
                ]

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._model

    def infer(self, inputs: Tensors) -> Outputs:
        """Run B events; more than `largest_batch` are cut into several calls.

        Args:
            inputs: arrays of the contract's inputs, each (B, width), with B of 1 or more.

        Returns:
            Arrays of the contract's outputs, each (B, width).

        Raises:
            EngineError: PyTorch failed, or the engine is closed.
        """
        if self._closed:
            raise EngineError("The engine is closed.")
        step, B = self._largest, len(inputs["npho"])
        pieces = [
            {tensor.name: inputs[tensor.name][start : start + step] for tensor in INPUTS}
            for start in range(0, B, step)
        ]
        try:
            with torch.inference_mode():
                answers = [self._call(piece) for piece in pieces]
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            raise EngineError(f"PyTorch failed: {str(error).splitlines()[0]}") from error
        return {name: np.concatenate([a[name] for a in answers]) for name in self._names}

    def _call(self, inputs: Tensors) -> Outputs:
        if self._recorded:
            recorded = next(r for r in self._recorded if r.size >= len(inputs["npho"]))
            with self._lock:
                return recorded.run(inputs)
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[t.name])) for t in INPUTS]
        outputs = _by_name(self._network(*tensors), self._names)
        return {name: value.numpy() for name, value in outputs.items()}

    def close(self) -> None:
        """Free the network and its buffers."""
        self._closed = True
        self._recorded = []


def require_device(device: Device) -> torch.device:
    """PyTorch's name of a device that is there.

    Raises:
        EngineError: it is not there, or PyTorch does not know it.
    """
    if device is Device.TENSORRT:
        raise EngineError("PyTorch does not run on TensorRT: choose cuda, or the onnx engine.")
    if device is Device.CUDA and not torch.cuda.is_available():
        why = "finds no GPU" if torch.version.cuda else "is a build without CUDA"
        raise EngineError(
            f"This PyTorch ({torch.__version__}) {why}: use a machine with a GPU and a build of "
            "PyTorch for its CUDA, or say --device cpu."
        )
    return torch.device(device.value)


def from_checkpoint(
    folder: Path,
    device: Device = Device.CPU,
    geometry: Geometry | None = None,
    largest_batch: int = 64,
) -> TorchEngine:
    """An engine from what `xec train` wrote.

    Args:
        folder: the checkpoint.
        device: CPU or CUDA.
        geometry: that of its training; the ideal one by default.
        largest_batch: events in one call.

    Raises:
        ModelError: the checkpoint is missing, damaged, unfinished, or for another geometry.
        EngineError: the device is not there.
    """
    place = require_device(device)
    network, checkpoint = load_checkpoint(folder, geometry or parametric())
    description = json.loads((folder / DESCRIPTION).read_text())
    model = ModelInfo(
        name=MODEL_NAME,
        version=folder.name,
        sha256=description["weights_sha256"],
        geometry_hash=checkpoint.geometry_hash,
        contract_version=checkpoint.contract_version,
        metadata={"preset": checkpoint.preset},
        interval_scale=dict(checkpoint.interval_scale),
        reliability=Reliability.from_dict(checkpoint.reliability),
        engine="torch",
    )
    return TorchEngine(network.to(place), model, device, largest_batch)


def from_repository(
    repository: Path,
    device: Device = Device.CPU,
    *,
    name: str = MODEL_NAME,
    version: int | None = None,
    largest_batch: int = 64,
) -> TorchEngine:
    """An engine from the TorchScript file of a repository; it answers the golden events first.

    Args:
        repository: folder in Triton's layout.
        device: CPU or CUDA.
        name: of the model.
        version: of the model; the highest one by default.
        largest_batch: events in one call.

    Raises:
        ModelError: the file is missing, altered, cannot be run, or answers wrongly.
        EngineError: the device is not there.
    """
    place = require_device(device)
    stored = read_model(repository, name, version)
    path = stored.folder / SCRIPT_FILE
    content = _script_bytes(path)
    network = _loaded(content, place, path)
    known = identity(stored, metadata_of(stored.content), None, "torch")
    engine = TorchEngine(network, known, device, largest_batch, name)
    if stored.golden is not None:
        golden = golden_of(stored.golden, stored.folder / GOLDEN_FILE, outputs_of(name))
        golden.check(engine.infer(golden.inputs), str(path))
    return engine


def _loaded(content: bytes, place: torch.device, path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # Libtorch and Triton's pytorch backend still take it: nothing a user could act on.
        warnings.filterwarnings("ignore", message="`torch.jit.load`", category=DeprecationWarning)
        try:
            network = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(content), map_location=place
            )
        except RuntimeError as error:
            raise ModelError(f"{path} is not TorchScript that this PyTorch can run.") from error
    assert isinstance(network, torch.jit.ScriptModule)
    return network.eval()


def _script_bytes(path: Path) -> bytes:
    """The bytes of a TorchScript file; that they are its manifest's was looked at before."""
    if path.name not in read_manifest(path.parent)["files"]:
        raise ModelError(f"{path.parent} has no {path.name}: export the model with TorchScript.")
    return path.read_bytes()
