"""What an export of all models writes: whole versions, halves that are smaller, golden events."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from xec.contract import INPUTS, MODEL_NAME, MODELS, OUTPUTS, outputs_of
from xec.detector.geometry import parametric
from xec.engines.golden import golden_of
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import UsageError
from xec.lineage import sha256_of_file
from xec.models.build import build_reconstructor, preset
from xec.models.checkpoint import Checkpoint, save_checkpoint
from xec.models.reconstructor import Reconstructor
from xec.simulation.generator import Generator, SimulationConfig
from xec_export import session
from xec_export.engines import eager, scripted
from xec_export.events import contract_inputs
from xec_export.options import ExportOptions
from xec_export.parity import relative_difference, runtime_of
from xec_export.torchscript import torchscript_of
from xec_export.triton_config import HALF_FILE, TORCHSCRIPT_FILE

VERSION = "2"
SETTINGS = OnnxSettings(sessions=1)
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def network() -> Reconstructor:
    torch.manual_seed(4)
    model = build_reconstructor(preset("tiny"), parametric()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim and not parameter.any():
                parameter.normal_(std=0.02)
    return model


@pytest.fixture(scope="module")
def repository(network: Reconstructor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(folder / "c", network, Checkpoint(preset("tiny"), "tiny", parametric().hash))
    options = ExportOptions(torchscript=True, precision="fp16")
    session.run_export(folder / "c", folder / "repository", VERSION, 10, None, options)
    return folder / "repository"


@pytest.fixture(scope="module")
def inputs() -> Tensors:
    return contract_inputs(Generator(SimulationConfig(), parametric(), "cpu", 77).sample(5))


@pytest.fixture(scope="module")
def answers(repository: Path, inputs: Tensors) -> dict[str, Tensors]:
    """Of every model, by the engine, which has checked its golden events by then."""
    return {name: OnnxEngine(repository, SETTINGS, name=name).infer(inputs) for name in MODELS}


def graph(repository: Path, name: str) -> onnx.ModelProto:
    return onnx.load(repository / name / VERSION / "model.onnx")


@pytest.mark.parametrize("name", MODELS)
def test_the_manifest_names_every_file_beside_it(repository: Path, name: str) -> None:
    folder = repository / name / VERSION
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {p.name for p in folder.iterdir()} == {*files, "manifest.json"}
    assert set(files) == {"model.onnx", "model.pt", HALF_FILE, "golden.npz", "parity.json"}
    for file, entry in files.items():
        assert entry["sha256"] == sha256_of_file(folder / file)
        assert entry["bytes"] == (folder / file).stat().st_size


def test_the_halves_answer_as_the_whole(answers: dict[str, Tensors]) -> None:
    whole = answers[MODEL_NAME]
    assert set(whole) == {t.name for t in OUTPUTS}
    for name in ("inpaint", "regress"):
        assert set(answers[name]) == {t.name for t in outputs_of(name)}
        for output, value in answers[name].items():
            assert relative_difference(value, whole[output]) < 1e-6, output
    assert {*answers["inpaint"], *answers["regress"]} == set(whole)


def weights(proto: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in proto.graph.initializer)


def test_the_halves_hold_and_compute_less(repository: Path) -> None:
    whole = graph(repository, MODEL_NAME)
    for name in ("inpaint", "regress"):
        half = graph(repository, name)
        assert [o.name for o in half.graph.output] == [t.name for t in outputs_of(name)]
        assert len(half.graph.node) < len(whole.graph.node)
        assert weights(half) < weights(whole)


@pytest.mark.parametrize("name", MODELS)
def test_torchscript_answers_as_the_network(
    repository: Path, network: Reconstructor, inputs: Tensors, name: str
) -> None:
    content = (repository / name / VERSION / TORCHSCRIPT_FILE).read_bytes()
    expected = eager(network)(inputs)
    for output, value in scripted(content, name)(inputs).items():
        assert relative_difference(value, expected[output]) < 1e-5, output


@pytest.mark.parametrize("name", MODELS)
def test_arguments_of_torchscript_are_the_inputs(repository: Path, name: str) -> None:
    """Triton's pytorch backend takes inputs by these names."""
    module = torchscript_of((repository / name / VERSION / TORCHSCRIPT_FILE).read_bytes())
    arguments = [a.name for a in module.forward.schema.arguments]
    assert arguments == ["self", *(t.name for t in INPUTS)]


@pytest.mark.parametrize("name", MODELS)
def test_golden_events_are_physics_with_dead_sensors(repository: Path, name: str) -> None:
    path = repository / name / VERSION / "golden.npz"
    golden = golden_of(path.read_bytes(), path, outputs_of(name))
    count = len(golden.inputs["npho"])
    assert 2 <= count <= 4
    dead = (golden.inputs["npho_valid"] == 0).sum(axis=1)
    assert ((dead > 10) & (dead < 1000)).all()
    assert (golden.inputs["npho"].sum(axis=1) > 10_000).all()
    assert set(golden.outputs) == {t.name for t in outputs_of(name)}


@pytest.mark.parametrize("name", MODELS)
def test_the_parity_report_covers_every_engine_and_case(repository: Path, name: str) -> None:
    report = json.loads((repository / name / VERSION / "parity.json").read_text())
    assert report["synthetic"]
    found = {(row["engine"], row["case"]) for row in report["rows"]}
    cases = {case for engine, case in found if engine == "ONNX Runtime"}
    assert {"batch 1", "batch 7", "batch 64", "no dead sensor", "an all-dead face"} <= cases
    assert {(engine, case) for engine in ("ONNX Runtime", "TorchScript") for case in cases} <= found
    assert all(row["relative"] <= report["tolerance"] for row in report["rows"])
    card = (repository / name / "README.md").read_text()
    assert "Agreement of the engines" in card
    assert sha256_of_file(repository / name / VERSION / "model.onnx") in card


@pytest.mark.parametrize("name", MODELS)
def test_flavours_lie_beside_the_versions(repository: Path, name: str) -> None:
    folder = repository / name
    flavours = {p.stem for p in (folder / "configs").iterdir()}
    assert flavours == {"cpu", "cuda", "cuda_fp16", "tensorrt", "reproducible", "pytorch"}
    assert (folder / "config.pbtxt").read_text() == (folder / "configs/cpu.pbtxt").read_text()
    of = {"pytorch": "model.pt", "cpu": "model.onnx", "cuda_fp16": HALF_FILE}
    for flavour, file in of.items():
        digest = sha256_of_file(folder / VERSION / file)
        assert digest in (folder / "configs" / f"{flavour}.pbtxt").read_text()


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_in_half_precision_nearly_answers_as_the_network(
    repository: Path, network: Reconstructor, inputs: Tensors, name: str
) -> None:
    """By ONNX Runtime on the CPU, which casts where it has no kernels for half precision."""
    content = (repository / name / VERSION / HALF_FILE).read_bytes()
    kinds = {t.data_type for t in onnx.load_from_string(content).graph.initializer}
    assert {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT} <= kinds
    expected = eager(network)(inputs)
    differences = [
        relative_difference(value, expected[output])
        for output, value in runtime_of(content, name)(inputs).items()
    ]
    assert 1e-6 < max(differences) < 1e-2


def test_an_earlier_torchscript_does_not_outlive_its_model(
    repository: Path, network: Reconstructor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second export without TorchScript and half precision leaves nothing of the first."""
    proto = graph(repository, MODEL_NAME)
    monkeypatch.setattr(session, "to_onnx", lambda *_: proto)
    save_checkpoint(tmp_path / "c", network, Checkpoint(preset("tiny"), "tiny", parametric().hash))
    target = tmp_path / "repository"
    for options in (
        ExportOptions(("inpaint",), torchscript=True, precision="fp16"),
        ExportOptions(("inpaint",)),
    ):
        session.run_export(tmp_path / "c", target, VERSION, 10, None, options)
    assert {p.name for p in (target / "inpaint" / VERSION).iterdir()} == {
        "model.onnx",
        "golden.npz",
        "parity.json",
        "manifest.json",
    }
    assert not list(target.rglob("pytorch.pbtxt")) + list(target.rglob("cuda_fp16.pbtxt"))
    OnnxEngine(target, SETTINGS, name="inpaint").close()


def test_an_engine_of_a_half_refuses_the_whole(repository: Path, tmp_path: Path) -> None:
    """The name of the model decides on its outputs."""
    (repository / MODEL_NAME).rename(repository / "aside")
    try:
        target = tmp_path / "regress"
        target.symlink_to(repository / "aside")
        with pytest.raises(Exception, match=r"outputs: missing none; unknown npho_mean"):
            OnnxEngine(tmp_path, SETTINGS, name="regress")
    finally:
        (repository / "aside").rename(repository / MODEL_NAME)


@pytest.mark.parametrize("models", [("recover",), ()])
def test_models_that_do_not_exist_are_refused(models: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="choose among reconstruct, inpaint, regress"):
        replace(ExportOptions(), models=models)


def test_a_precision_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="choose float32 or fp16"):
        ExportOptions(precision="int8")


def test_options_take_the_models_of_the_contract() -> None:
    options: Any = ExportOptions()
    assert options.models == tuple(MODELS)
