"""The engines by name."""

from __future__ import annotations

from enum import StrEnum


class EngineKind(StrEnum):
    """What computes."""

    ONNX = "onnx"
    TRITON = "triton"
    TORCH = "torch"
