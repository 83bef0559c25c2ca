"""Which engine a server runs, from what its command line says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, cast

from xec.engines.base import Engine
from xec.engines.device import Device
from xec.engines.kind import EngineKind
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import UsageError
from xec_server.model.gateway import Gateway

_TORCH_ENGINE: Final = "xec.engines.torch_engine"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine and what it needs.

    Args:
        repository: of the model.
        version: its folder; the highest one by default.
        kind: what computes.
        onnx: use of the machine by the embedded engine, as the engine or as the fall-back; its
            device is PyTorch's, too.
        triton: ``host:port`` of Triton's gRPC service.
        fallback: keep the embedded engine warm and answer by it while Triton is away.
    """

    repository: Path
    version: int | None = None
    kind: EngineKind = EngineKind.ONNX
    onnx: OnnxSettings = field(default_factory=OnnxSettings)
    triton: str | None = None
    fallback: bool = False

    def __post_init__(self) -> None:
        if (self.kind is EngineKind.TRITON) != (self.triton is not None):
            raise UsageError(
                "--engine triton and --triton HOST:PORT belong together: give both or neither."
            )
        if self.fallback and self.kind is not EngineKind.TRITON:
            raise UsageError("--fallback stands in for Triton: it needs --engine triton.")
        if self.kind is EngineKind.TORCH and self.onnx.device is Device.TENSORRT:
            raise UsageError(
                "PyTorch does not run on TensorRT: say --device cuda, or --engine onnx."
            )

    def open(self, version: int | None = None) -> Engine:
        """Load and warm it.

        Args:
            version: in place of the chosen one.

        Raises:
            UsageError: a package that it needs is not installed.
            ModelError: the model is missing, altered, or not what Triton runs.
            EngineError: the device is not there.
        """
        if version is not None:
            return replace(self, version=version).open()
        match self.kind:
            case EngineKind.ONNX:
                return self._embedded()
            case EngineKind.TORCH:
                return self._torch()
            case EngineKind.TRITON:
                return self._gateway()

    def _embedded(self) -> OnnxEngine:
        return OnnxEngine(self.repository, self.onnx, version=self.version)

    def _torch(self) -> Engine:
        _need("torch", "train")
        # By name: nothing else in the server may lead to torch, and most servers do not have it.
        load = cast("Callable[..., Engine]", import_module(_TORCH_ENGINE).from_repository)
        return load(self.repository, self.onnx.device, version=self.version)

    def _gateway(self) -> Gateway:
        _need("tritonclient", "triton")
        from xec.engines.triton import TritonEngine  # noqa: PLC0415

        assert self.triton is not None
        triton = TritonEngine(self.triton, self.repository, version=self.version)
        try:
            return Gateway(triton, self._embedded() if self.fallback else None)
        except BaseException:
            triton.close()
            raise


def _need(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise UsageError(f"This engine needs {package}: pip install 'xec-reconstruct[{extra}]'.")
