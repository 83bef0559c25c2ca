"""Repositories and requests for a real Triton."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from conftest import build_stub_model, stub_answers
from xec.contract import CONTRACT_VERSION, INPUTS, OUTPUTS, Tensor
from xec.detector.channels import N_CHANNELS
from xec.detector.geometry import parametric
from xec.engines.golden import GOLDEN_FILE, Golden, golden_bytes
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.lineage import sha256_of_bytes
from xec_server.triton.launcher import Triton, TritonSettings, running
from xec_server.triton.probe import infer
from xec_server.triton.requirements import Machine

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "model_repository"
TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}

# Nothing else may keep a test from running: an environment that cannot be built is a failure.
needs_triton = pytest.mark.skipif(
    bool(Machine.here().obstacle()), reason=f"no Triton: {Machine.here().obstacle()}"
)


def configuration(
    name: str,
    parameters: Mapping[str, str] | None = None,
    *,
    outputs: tuple[Tensor, ...] = OUTPUTS,
    max_batch: int = 64,
    more: str = "",
) -> str:
    """A `config.pbtxt` of the contract's tensors."""

    def tensors(kind: str, entries: tuple[Tensor, ...]) -> str:
        return "".join(
            f'{kind} {{ name: "{t.name}" data_type: {TYPES[t.dtype]} dims: [ {t.width} ] }}\n'
            for t in entries
        )

    settings = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        for key, value in (parameters or {}).items()
    )
    return (
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {max_batch}\n'
        f"{tensors('input', INPUTS)}{tensors('output', outputs)}{settings}"
        f"instance_group {{ kind: KIND_CPU count: 1 }}\n{more}"
    )


BATCHING = (
    "dynamic_batching { preferred_batch_size: [ 8, 64 ] max_queue_delay_microseconds: 100000 }\n"
)


def add_model(
    repository: Path,
    name: str,
    content: bytes,
    config: str,
    golden: Golden | None = None,
) -> Path:
    """Write one version of a model with a true manifest; its folder."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    files = {"model.onnx": content}
    if golden is not None:
        files[GOLDEN_FILE] = golden_bytes(golden)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    entries = {
        file: {"sha256": sha256_of_bytes(data), "bytes": len(data)} for file, data in files.items()
    }
    manifest = {"contract_version": CONTRACT_VERSION, "files": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder.parent / "config.pbtxt").write_text(config)
    return folder


def add_half(folder: Path) -> None:
    sensors = tuple(tensor for tensor in OUTPUTS if tensor.width == N_CHANNELS)
    model = build_stub_model()
    for output in list(model.graph.output):
        if output.name not in {tensor.name for tensor in sensors}:
            model.graph.output.remove(output)
    inputs = uniform_events(5)
    answers = stub_answers(inputs)
    golden = Golden(inputs, {t.name: answers[t.name].astype("f4") for t in sensors})
    config = configuration("half", outputs=sensors, max_batch=2)
    add_model(folder, "half", model.SerializeToString(), config, golden)


def fragile_model() -> bytes:
    """The stub, which looks up the first sensor's photons in a table of 1000 rows and adds 0."""
    from onnx import TensorProto, helper, numpy_helper

    model = build_stub_model()
    for node in model.graph.node:
        node.output[:] = ["before" if name == "energy" else name for name in node.output]
    constants = {
        "first": np.array([0]),
        "table": np.zeros(1000, dtype="f4"),
    }
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["npho", "first"], ["photons"], axis=1),
            helper.make_node("Cast", ["photons"], ["row"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "row"], ["zero"]),
            helper.make_node("Add", ["before", "zero"], ["energy"]),
        ]
    )
    return bytes(model.SerializeToString())


def uniform_events(count: int) -> dict[str, np.ndarray]:
    """Events that differ in their light."""
    light = np.linspace(100, 500, count, dtype="f4")[:, None] * np.ones((1, N_CHANNELS), "f4")
    valid = np.ones((count, N_CHANNELS), "u1")
    return {"npho": light, "time": np.zeros_like(light), "npho_valid": valid, "time_valid": valid}


def shipped_model() -> bytes:
    return (SHIPPED / "reconstruct" / "1" / "model.onnx").read_bytes()


def sample(count: int = 64) -> dict[str, np.ndarray]:
    """Inputs of simulated events; the last two are dark."""
    from xec.simulation.generator import Generator, SimulationConfig
    from xec_export.events import contract_inputs, with_dark_events

    simulated = Generator(SimulationConfig(), parametric(), "cpu", 51).sample(count)
    return with_dark_events(contract_inputs(simulated))


def rows(inputs: Mapping[str, np.ndarray], chosen: Any) -> dict[str, np.ndarray]:
    return {name: values[chosen] for name, values in inputs.items()}


def golden_by(engine: OnnxEngine, inputs: Mapping[str, np.ndarray]) -> Golden:
    return Golden(inputs, engine.infer(inputs))


@dataclass
class Served:
    """A Triton that serves the shipped model twice, and what it is compared with."""

    triton: Triton
    client: triton.InferenceServerClient
    repository: Path

    def ask(self, model: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return infer(self.client, model, inputs)


def main_repository(folder: Path) -> Path:
    """`reconstruct` with dynamic batching, `steady` reproducible, both the shipped model; and
    `half`, the stub without what it says of the gamma, in requests of at most two events; and
    `fragile`, the stub which fails on what it is told to.
    """
    content = shipped_model()
    engine = OnnxEngine(SHIPPED, OnnxSettings(sessions=1))
    golden = golden_by(engine, sample(4))
    engine.close()
    sha256 = {"sha256": sha256_of_bytes(content)}
    plain = configuration("reconstruct", sha256, more=BATCHING)
    add_model(folder, "reconstruct", content, plain, golden)
    steady = configuration("steady", {**sha256, "reproducible": "true"}, more=BATCHING)
    add_model(folder, "steady", content, steady)
    add_half(folder)
    fragile = configuration("fragile", more=BATCHING)
    add_model(folder, "fragile", fragile_model(), fragile)
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Triton on `main_repository`, with metrics."""
    repository = main_repository(folder / "repository")
    with (
        running(TritonSettings(repository, metrics_port=0)) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        yield Served(server, client, repository)


def copy_of(repository: Path, folder: Path) -> Path:
    return Path(shutil.copytree(repository, folder / "copy"))
