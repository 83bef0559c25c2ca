"""A session with its tensors in place: buffers made once, one set for each batch size.

On a GPU a call copies its events into buffers that stay, runs, and copies the answers out; the
launches of each batch size are recorded at its first run and replayed from then on (a CUDA
graph), which needs exactly this: the same addresses and shapes in every run.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from xec.contract import INPUTS, Tensor
from xec.engines.base import Tensors

Outputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The buffers of one batch size and their binding."""

    size: int
    inputs: dict[str, ort.OrtValue]
    outputs: dict[str, ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class BoundSession:
    """Runs a session through fixed buffers; one call at a time, others wait.

    A batch goes into the smallest bucket that holds it; the rows that are left over repeat its
    last event, and their answers are dropped.

    Args:
        session: follows the contract.
        buckets: batch sizes, ascending.
        outputs: which to fetch.
        place: memory of the buffers: ``cuda``, or ``cpu`` for tests of this file.
        graphs: number the runs of each bucket for CUDA graphs.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        buckets: Sequence[int],
        outputs: Sequence[Tensor],
        place: str,
        graphs: bool,
    ) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._buckets = [
            self._bucket(size, outputs, place, number if graphs else None)
            for number, size in enumerate(sorted(buckets), start=1)
        ]

    def _bucket(
        self, size: int, outputs: Sequence[Tensor], place: str, graph: int | None
    ) -> _Bucket:
        def buffers(tensors: Sequence[Tensor]) -> dict[str, ort.OrtValue]:
            return {
                t.name: ort.OrtValue.ortvalue_from_numpy(
                    np.zeros((size, t.width), dtype=t.dtype), place, 0
                )
                for t in tensors
            }

        options = ort.RunOptions()
        if graph is not None:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        bucket = _Bucket(
            size, buffers(INPUTS), buffers(outputs), self._session.io_binding(), options
        )
        for name, value in bucket.inputs.items():
            bucket.binding.bind_ortvalue_input(name, value)
        for name, value in bucket.outputs.items():
            bucket.binding.bind_ortvalue_output(name, value)
        return bucket

    def run(self, inputs: Tensors) -> Outputs:
        """Run B events, at most as many as the largest bucket holds.

        Args:
            inputs: arrays of the contract's inputs, each (B, width).

        Returns:
            The outputs, each (B, width), in memory of their own.
        """
        B = len(inputs["npho"])
        bucket = next(bucket for bucket in self._buckets if bucket.size >= B)
        with self._lock:
            for name, value in bucket.inputs.items():
                value.update_inplace(_padded(inputs[name], bucket.size))
            bucket.binding.synchronize_inputs()
            self._session.run_with_iobinding(bucket.binding, bucket.options)
            bucket.binding.synchronize_outputs()
            return {name: value.numpy()[:B].copy() for name, value in bucket.outputs.items()}


def _padded(values: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """`values` with rows repeated up to `size`: real events cannot surprise the graph."""
    rows = np.minimum(np.arange(size), len(values) - 1)
    return np.ascontiguousarray(values[rows] if size > len(values) else values)
