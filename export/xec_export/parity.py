"""Does the exported graph give the same answer as PyTorch, on events nobody has seen?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from xec.contract import INPUTS, MODEL_NAME, outputs_of
from xec.errors import ModelError
from xec.models.reconstructor import Reconstructor

Arrays = dict[str, NDArray[np.generic]]

TOLERANCE: Final = 1e-4  # relative to the size of each output
BATCHES: Final = (1, 7, 64)


@dataclass(frozen=True, slots=True)
class Difference:
    """Largest difference of one output over all events, relative to its scale."""

    output: str
    batch: int
    relative: float


def relative_difference(value: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Largest |a - b| / (|b| + rms of b); infinite where a value is not finite."""
    scale = np.abs(reference) + np.sqrt(np.mean(np.square(reference, dtype=np.float64)))
    difference = np.abs(value.astype(np.float64) - reference) / (scale + 1e-12)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def runtime_of(
    onnx_bytes: bytes, name: str = MODEL_NAME
) -> Callable[[Mapping[str, NDArray[np.generic]]], dict[str, NDArray[np.float32]]]:
    """The exported graph as a function, run by ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in outputs_of(name)]

    def infer(inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return infer


def compare(model: Reconstructor, onnx_bytes: bytes, inputs: Arrays) -> list[Difference]:
    """Differences between PyTorch and ONNX Runtime for each output and batch size.

    Args:
        model: the network.
        onnx_bytes: its exported graph.
        inputs: arrays of the contract for at least `max(BATCHES)` events.
    """
    infer = runtime_of(onnx_bytes)
    found = []
    for batch in BATCHES:
        part = {t.name: inputs[t.name][:batch] for t in INPUTS}
        with torch.no_grad():
            expected = model(*(torch.from_numpy(part[t.name]) for t in INPUTS))
        for name, value in infer(part).items():
            difference = relative_difference(value, expected[name].numpy())
            found.append(Difference(name, batch, difference))
    return found


def require_parity(differences: list[Difference], tolerance: float = TOLERANCE) -> Difference:
    """The worst difference; `ModelError` names it when it is beyond `tolerance`."""
    worst = max(differences, key=lambda d: d.relative)
    if not worst.relative <= tolerance:
        raise ModelError(
            f"The exported graph differs from PyTorch: {worst.output} by {worst.relative:.1e} "
            f"(relative) at batch {worst.batch}, allowed {tolerance:.0e}. Nothing was written."
        )
    return worst
