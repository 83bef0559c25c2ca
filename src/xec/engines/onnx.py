"""The embedded engine: ONNX Runtime on the CPU, several calls at a time.

On a CPU small batches in parallel beat one large batch, and one thread per call beats several
(benchmarks/engine.py). So a session runs with one thread by default and as many calls at once as
there are cores; larger batches are cut into pieces of `largest_batch`. Nothing is padded: an
event more costs more than a batch size that is not a power of two.

Answers are reproducible bit for bit, whatever other events there are, with a `largest_batch` of
1. Padding to one fixed batch would not do: the vector loops of the kernels end in scalar code,
and so the last bit of an answer can depend on the event's place in its batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from xec.contract import INPUTS, MODEL_NAME, Tensor, outputs_of
from xec.engines.base import ModelInfo, Tensors
from xec.engines.bound import BoundSession
from xec.engines.device import Device, buckets_up_to
from xec.engines.golden import GOLDEN_FILE, golden_of
from xec.engines.onnx_bytes import check_self_contained
from xec.engines.onnx_model import ORT_ERRORS, model_info, new_session, reason_of
from xec.engines.providers import records_graphs
from xec.engines.repository import MODEL_FILE, StoredModel, read_model
from xec.errors import EngineError, ModelError, UsageError

Outputs = dict[str, NDArray[np.float32]]
Run = Callable[[Tensors], Outputs]

_ORT_LOG_ERRORS: Final = 3


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class OnnxSettings:
    """How the engine uses the machine.

    Args:
        sessions: calls that run at the same time; 0 means usable cores / `threads_per_session`.
        threads_per_session: threads inside one call.
        largest_batch: events per call; more are cut into several calls.
        device: what computes. A GPU gets one session with a fixed buffer for each bucket.
    """

    sessions: int = 0
    threads_per_session: int = 1
    largest_batch: int = 4
    device: Device = Device.CPU

    def __post_init__(self) -> None:
        if self.sessions < 0 or self.threads_per_session < 1:
            raise UsageError("The engine needs at least one session with one thread.")
        if self.largest_batch < 1:
            raise UsageError("A batch of the engine holds at least one event.")

    @property
    def calls_at_once(self) -> int:
        """Calls that run at the same time on this machine."""
        if self.device.is_gpu:
            return self.sessions or 1
        return self.sessions or max(1, usable_cores() // self.threads_per_session)

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes to warm: powers of two up to the largest, and the largest."""
        return buckets_up_to(self.largest_batch)


def _runner(
    session: ort.InferenceSession, settings: OnnxSettings, outputs: Sequence[Tensor]
) -> Run:
    if settings.device.is_gpu:
        graphs = records_graphs(session)
        return BoundSession(session, settings.buckets, outputs, "cuda", graphs).run
    names = [tensor.name for tensor in outputs]

    def run(inputs: Tensors) -> Outputs:
        answers: list[NDArray[np.float32]] = session.run(names, dict(inputs))
        return dict(zip(names, answers, strict=True))

    return run


def _rows(tensors: Tensors, rows: slice) -> Tensors:
    return {name: values[rows] for name, values in tensors.items()}


def _uniform_events(count: int) -> Tensors:
    """Events in which every sensor is valid and counts 100 photons at time 0."""
    value = {"npho": 100, "time": 0, "npho_valid": 1, "time_valid": 1}
    return {t.name: np.full((count, t.width), value[t.name], dtype=t.dtype) for t in INPUTS}


class OnnxEngine:
    """A model of a repository, run by ONNX Runtime.

    `infer` may be called from any number of threads; `calls_at_once` run, the rest wait.
    """

    def __init__(
        self,
        repository: Path,
        settings: OnnxSettings | None = None,
        *,
        name: str = MODEL_NAME,
        version: int | None = None,
        geometry_hash: str | None = None,
    ) -> None:
        """Read, check, load and warm a model.

        Args:
            repository: folder in Triton's layout.
            settings: use of the machine.
            name: of the model.
            version: of the model; the highest one by default.
            geometry_hash: refuse a model that was made for another geometry than this.

        Raises:
            ModelError: the model is missing, altered, not self-contained, or of another contract.
            EngineError: the device is not there, or ONNX Runtime does not use it.
        """
        self.settings = settings or OnnxSettings()
        ort.set_default_logger_severity(_ORT_LOG_ERRORS)
        ort.disable_telemetry_events()
        stored = read_model(repository, name, version)
        path = stored.folder / MODEL_FILE
        try:
            check_self_contained(stored.content)
        except ModelError as error:
            raise ModelError(f"{path} is refused: {error}.") from error
        sessions = self._new_sessions(stored)
        self._model = model_info(stored, sessions[0], geometry_hash)
        tensors = outputs_of(name)
        self._outputs = [tensor.name for tensor in tensors]
        runners = {id(session): _runner(session, self.settings, tensors) for session in sessions}
        for runner in runners.values():
            _warm_up(runner, self.settings.buckets, path, tensors)
        self._idle: SimpleQueue[Run] = SimpleQueue()
        for session in sessions:
            self._idle.put(runners[id(session)])
        self._pool = ThreadPoolExecutor(len(sessions), thread_name_prefix="xec-onnx")
        self._closed = False
        self._check_golden(stored)

    def _check_golden(self, stored: StoredModel) -> None:
        """Ask for the answers to the model's golden events, where it has some."""
        if stored.golden is None:
            return
        path = stored.folder / GOLDEN_FILE
        golden = golden_of(stored.golden, path, outputs_of(stored.name))
        try:
            golden.check(self.infer(golden.inputs), f"ONNX Runtime with {path.parent}")
        except (ModelError, EngineError) as error:
            self.close()
            raise ModelError(str(error)) from error

    def _new_sessions(self, stored: StoredModel) -> list[ort.InferenceSession]:
        threads, count = self.settings.threads_per_session, self.settings.calls_at_once
        device, largest = self.settings.device, self.settings.largest_batch
        if threads == 1 and not device.is_gpu:
            # Each call then runs on its caller's thread: one session, with one copy of the
            # weights, serves all of them as fast as several (benchmarks/engine.py).
            return [new_session(stored, threads)] * count
        return [new_session(stored, threads, device, largest) for _ in range(count)]

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._model

    def infer(self, inputs: Tensors) -> Outputs:
        """Run B events; more than `largest_batch` are cut and run side by side.

        Args:
            inputs: arrays of the contract's inputs, each (B, width), with B of 1 or more.

        Returns:
            Arrays of the model's outputs (`xec.contract.outputs_of`), each (B, width).

        Raises:
            EngineError: ONNX Runtime failed, or the engine is closed.
        """
        idle = self._idle  # before the question: without its sessions nobody should wait for one
        if self._closed:
            raise EngineError("The engine is closed.")
        step = self.settings.largest_batch
        B = len(inputs["npho"])
        if step >= B:
            return self._call(inputs, idle)
        pieces = [_rows(inputs, slice(start, start + step)) for start in range(0, B, step)]
        answers = list(self._pool.map(lambda piece: self._call(piece, idle), pieces))
        return {name: np.concatenate([a[name] for a in answers]) for name in self._outputs}

    def rows_for(self, events: int) -> int:
        """Rows that are computed for so many events: on a GPU those that fill up a bucket, too."""
        if not self.settings.device.is_gpu:
            return events
        whole, rest = divmod(events, self.settings.largest_batch)
        last = next(size for size in (0, *self.settings.buckets) if size >= rest)
        return whole * self.settings.largest_batch + last

    def _call(self, inputs: Tensors, idle: SimpleQueue[Run]) -> Outputs:
        run = idle.get()
        try:
            return run(inputs)
        except ORT_ERRORS as error:
            raise EngineError(f"ONNX Runtime failed: {reason_of(error)}") from error
        finally:
            idle.put(run)

    def close(self) -> None:
        """Wait for the calls that run and free the sessions."""
        if self._closed:
            return
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        self._idle = SimpleQueue()  # whoever still holds the engine holds no model


def _warm_up(run: Run, sizes: Sequence[int], path: Path, tensors: Sequence[Tensor]) -> None:
    """Run every batch size once, and look at the answers.

    Raises:
        ModelError: the model fails, or an answer has another shape than the contract's or is not
            finite.
    """
    for size in sizes:
        try:
            outputs = run(_uniform_events(size))
        except ORT_ERRORS as error:
            raise ModelError(f"{path} fails on a uniform event: {reason_of(error)}") from error
        for tensor in tensors:
            values = outputs[tensor.name]
            if values.shape != (size, tensor.width):
                raise ModelError(f"{path} answers {tensor.name} with shape {values.shape}.")
            if not np.isfinite(values).all():
                raise ModelError(f"{path} answers a uniform event with non-finite {tensor.name}.")
