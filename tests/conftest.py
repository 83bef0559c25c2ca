"""Fixtures: a small real ONNX model that follows the contract, and events to feed it.

The model's answers are simple functions of its inputs (`stub_answers` computes them with NumPy),
so that a test can tell each event's answer from every other's.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings

from support_databases import mariadb, postgresql  # noqa: F401
from xec.contract import CONTRACT_VERSION, INPUTS, MODEL_NAME, OUTPUTS
from xec.detector.channels import N_CHANNELS
from xec.engines.base import tensors_of
from xec.event import Event, EventBatch
from xec.lineage import sha256_of_bytes

# Read by torch when a test imports it: its threads cost more than they bring on tensors this small,
# and take the cores from whatever runs beside. A value from outside wins.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Their asserts, too, say what was compared.
pytest.register_assert_rewrite("support_reconstruct", "support_server", "support_triton")

# Machines differ in speed; a slow example is no failure.
hypothesis_settings.register_profile("xec", deadline=None)
hypothesis_settings.load_profile("xec")

GAIN = 1 + np.arange(N_CHANNELS, dtype=np.float32) / N_CHANNELS
_phase = np.arange(N_CHANNELS, dtype=np.float32)[:, None] * np.array([1, 2, 3, 4, 5]) / 97
WEIGHTS = (10 * np.sin(_phase)).astype(np.float32)

STUB_METADATA = {
    "contract_version": CONTRACT_VERSION,
    "model_name": MODEL_NAME,
    "model_version": "stub-1",
    "geometry_hash": "9" * 64,
    "software_version": "0",
    "preset": "stub",
    "interval_scale": json.dumps({"energy": 1.5, "uvw": 0.5}),
    "training": "{}",
}


def stub_answers(inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the stub model answers, by NumPy in float64."""
    light = inputs["npho"].astype(np.float64) * inputs["npho_valid"]
    time = inputs["time"].astype(np.float64) * inputs["time_valid"]
    total = light.sum(axis=1, keepdims=True)
    mean = total / np.maximum(inputs["npho_valid"].sum(axis=1, keepdims=True), 1)
    mean_time = time.sum(axis=1, keepdims=True)
    mean_time /= np.maximum(inputs["time_valid"].sum(axis=1, keepdims=True), 1)
    centre = light @ WEIGHTS / (np.abs(total) + 1)
    ones = np.ones((1, N_CHANNELS))
    return {
        "npho_mean": mean * GAIN,
        "npho_sigma": (np.sqrt(np.abs(mean)) + 1) * ones,
        "time_mean": mean_time * ones,
        "time_sigma": (np.abs(mean_time) + 0.1) * ones,
        "energy": total * 1e-4,
        "energy_sigma": np.abs(total) * 1e-6 + 0.1,
        "gamma_time": mean_time - 1,
        "gamma_time_sigma": np.abs(mean_time) * 0.01 + 0.1,
        "uvw": centre[:, :3],
        "uvw_sigma": np.abs(centre[:, :3]) * 0.1 + 0.1,
        "angle": centre[:, 3:],
        "angle_sigma": np.abs(centre[:, 3:]) * 0.1 + 0.1,
    }


class _Graph:
    """Nodes and constants of an ONNX graph, one operation after the other."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, operator: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        out = out or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    def sum(self, value: str) -> str:
        return self.add("ReduceSum", value, self.constant([1], np.int64), keepdims=1)

    def affine(self, value: str, factor: Any, offset: float, out: str) -> None:
        scaled = self.add("Mul", value, self.constant(factor))
        self.add("Add", scaled, self.constant(offset), out=out)


def _mean(graph: _Graph, values: str, valid: str) -> tuple[str, str, str]:
    """Valid values, their sum and their mean."""
    from onnx import TensorProto

    bits = graph.add("Cast", valid, to=TensorProto.FLOAT)
    masked = graph.add("Mul", values, bits)
    total = graph.sum(masked)
    count = graph.add("Max", graph.sum(bits), graph.constant(1))
    return masked, total, graph.add("Div", total, count)


def _stub_graph() -> _Graph:
    graph = _Graph()
    ones = np.ones((1, N_CHANNELS))
    light, total, mean = _mean(graph, "npho", "npho_valid")
    _, _, mean_time = _mean(graph, "time", "time_valid")
    graph.affine(mean, GAIN[None], 0, "npho_mean")
    graph.affine(graph.add("Sqrt", graph.add("Abs", mean)), ones, 1, "npho_sigma")
    graph.affine(mean_time, ones, 0, "time_mean")
    graph.affine(graph.add("Abs", mean_time), ones, 0.1, "time_sigma")
    size = graph.add("Abs", total)
    graph.affine(total, 1e-4, 0, "energy")
    graph.affine(size, 1e-6, 0.1, "energy_sigma")
    graph.affine(mean_time, 1, -1, "gamma_time")
    graph.affine(graph.add("Abs", mean_time), 0.01, 0.1, "gamma_time_sigma")
    norm = graph.add("Add", size, graph.constant(1))
    for name, columns in (("uvw", slice(0, 3)), ("angle", slice(3, 5))):
        weighted = graph.add("MatMul", light, graph.constant(WEIGHTS[:, columns]))
        graph.add("Div", weighted, norm, out=name)
        graph.affine(graph.add("Abs", name), 0.1, 0.1, f"{name}_sigma")
    return graph


def build_stub_model(metadata: dict[str, str] | None = None) -> Any:
    """The stub as an `onnx.ModelProto`; `metadata` replaces single entries."""
    from onnx import TensorProto, checker, helper

    kinds = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
    inputs, outputs = (
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], ["B", t.width]) for t in tensors]
        for tensors in (INPUTS, OUTPUTS)
    )
    content = _stub_graph()
    graph = helper.make_graph(content.nodes, "stub", inputs, outputs, content.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {**STUB_METADATA, **(metadata or {})})
    checker.check_model(model)
    return model


def write_model(model: Any, repository: Path, version: int = 1) -> Path:
    """Write a model (`ModelProto` or bytes) with a true manifest; the path of the model."""
    folder = repository / MODEL_NAME / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    entry = {"sha256": sha256_of_bytes(content), "bytes": len(content)}
    manifest = {"files": {"model.onnx": entry}, "contract_version": CONTRACT_VERSION}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / "model.onnx"


def random_events(count: int, seed: int = 0) -> EventBatch:
    """Events with about two in a hundred sensors invalid and many times missing."""
    random = np.random.default_rng(seed)
    shape = (count, N_CHANNELS)
    npho_valid = random.random(shape) > 0.02
    time_valid = npho_valid & (random.random(shape) < 0.1)
    npho = random.exponential(200, shape).astype(np.float32)
    time = random.normal(0, 20, shape).astype(np.float32)
    return EventBatch(
        run=np.full(count, 1000 + seed),
        event=np.arange(count),
        npho=np.where(npho_valid, npho, np.float32(0)),
        time=np.where(time_valid, time, np.float32(0)),
        npho_valid=npho_valid,
        time_valid=time_valid,
    )


@pytest.fixture
def stub_model() -> Callable[..., Any]:
    """`build_stub_model`."""
    return build_stub_model


@pytest.fixture
def save_model() -> Callable[..., Path]:
    """`write_model`."""
    return write_model


@pytest.fixture(scope="session")
def stub_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that holds the stub model; not to be changed."""
    repository = tmp_path_factory.mktemp("stub") / "model_repository"
    write_model(build_stub_model(), repository)
    return repository


@pytest.fixture
async def service(stub_repository: Path) -> AsyncIterator[Any]:
    """A running server on the stub model, a `support_server.Running`."""
    from support_server import running

    async with running(stub_repository) as service:
        yield service


@pytest.fixture(scope="session")
def server_process(
    stub_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A server of its own on the stub model, a `support_server_process.Served`."""
    from support_server_process import serving

    with serving(stub_repository, tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real Triton with the shipped model, a `support_triton.Served`; not to be stopped."""
    from support_triton import serving

    with serving(tmp_path_factory.mktemp("triton")) as served:
        yield served


@pytest.fixture
def events() -> Callable[..., EventBatch]:
    """`random_events`."""
    return random_events


@pytest.fixture
def answers() -> Callable[[Event | EventBatch], dict[str, np.ndarray]]:
    """What the stub model answers to an event or a batch."""

    def of(event: Event | EventBatch) -> dict[str, np.ndarray]:
        batch = EventBatch.stack([event]) if isinstance(event, Event) else event
        return stub_answers(tensors_of(batch))

    return of
