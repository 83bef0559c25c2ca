"""The golden events of a model: a few inputs with the answers that its exporter saw.

A server, a shim in another environment, or another engine runs them before it says that it is
ready. What fails without an error, such as a library of the wrong version, shows here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.contract import INPUTS, OUTPUTS, Tensor
from xec.errors import ModelError

GOLDEN_FILE: Final = "golden.npz"
TOLERANCE: Final = 1e-3
"""Of an answer, relative to the size of its tensor: engines of one precision differ by 1e-5."""

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Inputs (B, width) of the contract and the outputs (B, width) that belong to them."""

    inputs: Arrays
    outputs: Arrays

    def difference(self, outputs: Arrays) -> tuple[str, float]:
        """The output that differs most, and by how much.

        That is the largest |a - b| / (|b| + rms of b); infinite where a value is missing, not
        finite, or has another shape.
        """
        sizes = {name: _relative(outputs.get(name), b) for name, b in self.outputs.items()}
        worst = max(sizes, key=lambda name: sizes[name])
        return worst, sizes[worst]

    def check(self, outputs: Arrays, who: str, tolerance: float = TOLERANCE) -> None:
        """Compare the answers of an engine.

        Args:
            outputs: what it answered to `inputs`.
            who: names it in the error.
            tolerance: of `difference`.

        Raises:
            ModelError: they differ.
        """
        name, size = self.difference(outputs)
        if not size <= tolerance:
            raise ModelError(
                f"{who} answers the model's golden events wrongly: {name} differs by {size:.1e} "
                f"(relative), allowed {tolerance:.0e}. It is not used."
            )


def _relative(value: NDArray[np.generic] | None, reference: NDArray[np.generic]) -> float:
    if value is None or value.shape != reference.shape:
        return float("inf")
    a, b = value.astype(np.float64), reference.astype(np.float64)
    size = np.abs(a - b) / (np.abs(b) + np.sqrt(np.mean(b * b)) + 1e-12)
    return float(size.max()) if np.isfinite(size).all() else float("inf")


def golden_bytes(golden: Golden) -> bytes:
    """The content of `GOLDEN_FILE`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{**golden.inputs, **golden.outputs})
    return buffer.getvalue()


def golden_of(
    content: bytes,
    path: Path,
    outputs: Iterable[Tensor] = OUTPUTS,
    inputs: tuple[Tensor, ...] = INPUTS,
) -> Golden:
    """Read golden events.

    Args:
        content: of the file.
        path: names it in errors.
        outputs: that the model has; a variant has some of the contract's.
        inputs: that it takes.

    Raises:
        ModelError: the content is damaged, or lacks a tensor.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return Golden(_taken(stored, inputs), _taken(stored, outputs))
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path} does not hold golden events of this contract: export the model again."
        ) from error


def _taken(stored: Arrays, tensors: Iterable[Tensor]) -> dict[str, NDArray[np.generic]]:
    return {t.name: stored[t.name].astype(t.dtype, casting="equiv") for t in tensors}
