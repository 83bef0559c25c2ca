"""Export: the ONNX graph says what PyTorch says, carries its provenance, and is one plain file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from xec.contract import INPUTS, MODEL_NAME, OUTPUTS
from xec.detector.channels import N_CHANNELS
from xec.detector.geometry import parametric
from xec.errors import ModelError
from xec.lineage import sha256_of_file
from xec.models.build import build_reconstructor, preset
from xec.models.calibration import Curve
from xec.models.checkpoint import Checkpoint, save_checkpoint
from xec.models.reconstructor import Reconstructor
from xec.simulation.generator import Generator, SimulationConfig
from xec_export import session
from xec_export.events import contract_inputs, with_dark_events
from xec_export.options import ExportOptions
from xec_export.parity import Difference, compare, relative_difference, require_parity

CURVES = {
    "depth": Curve(np.array([1.0, 3.0, 8.0]), np.linspace(0.5, 2.0, 21).reshape(3, 7)),
    "v": Curve(np.array([50.0]), np.full((1, 7), 1.1)),
    "inner": Curve(np.array([0.0, 4.0]), np.array([[0.9, 1.1], [1.6, 0.7]])),
    "pmt": Curve(np.array([0.0, 4.0]), np.array([[1.2, 1.1], [0.6, 1.7]])),
}
ONE = ExportOptions((MODEL_NAME,))
DESCRIPTION = Checkpoint(
    preset("tiny"),
    "tiny",
    parametric().hash,
    {"events": 5, "seed": 1},
    {"energy": 1.25},
    {name: curve.as_dict() for name, curve in CURVES.items()},
    {"domain": None},
)


@pytest.fixture(scope="module")
def network() -> Reconstructor:
    torch.manual_seed(4)
    model = build_reconstructor(preset("tiny"), parametric()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim and not parameter.any():
                parameter.normal_(std=0.02)
        for scale in model.sigma_scale.buffers():
            scale.fill_(1.5)
    model.sigma_scale.set_curves(CURVES)
    return model


@pytest.fixture(scope="module")
def repository(network: Reconstructor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes; every test looks at this one export, which takes its time."""
    folder = tmp_path_factory.mktemp("export")
    save_checkpoint(folder / "checkpoint", network, DESCRIPTION)
    session.run_export(folder / "checkpoint", folder / "repository", "3", 20, None, ONE)
    return folder / "repository" / MODEL_NAME


@pytest.fixture(scope="module")
def proto(repository: Path) -> onnx.ModelProto:
    return onnx.load(repository / "3" / "model.onnx")


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    batch = Generator(SimulationConfig(), parametric(), "cpu", 41).sample(64)
    return contract_inputs(batch)


def test_the_graph_agrees_with_pytorch_at_every_batch_size(network, proto, inputs) -> None:
    differences = compare(network, proto.SerializeToString(), inputs)
    assert {d.batch for d in differences} == {1, 7, 64}
    assert {d.output for d in differences} == {t.name for t in OUTPUTS}
    require_parity(differences)


def test_the_graph_agrees_with_pytorch_where_there_is_no_light(network, proto, inputs) -> None:
    """ONNX's optimiser drops small constants that keep 0 / 0 away; see `FRACTION_MIN`."""
    dark = with_dark_events(inputs)
    assert dark["npho_valid"][-2:].sum(axis=1).tolist() == [1, N_CHANNELS]
    assert not dark["npho"][-2:].any()
    require_parity(compare(network, proto.SerializeToString(), dark))


def with_other_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, its weights larger by a thousandth."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for weights in changed.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) > 1:
            values = onnx.numpy_helper.to_array(weights) * 1.001
            weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    return changed


def test_changed_weights_are_noticed(network, proto, inputs) -> None:
    """Negative control of the parity check."""
    changed = with_other_weights(proto)
    with pytest.raises(ModelError, match="differs from PyTorch"):
        require_parity(compare(network, changed.SerializeToString(), inputs))


def test_a_value_that_is_not_finite_is_never_parity() -> None:
    reference = np.ones((2, 3), dtype=np.float32)
    broken = reference.copy()
    broken[1, 2] = np.nan
    assert relative_difference(broken, reference) == float("inf")
    with pytest.raises(ModelError):
        require_parity([Difference("energy", 1, float("nan"))])


def test_dead_faces_markers_and_no_dead_sensor_agree_too(network, proto, inputs) -> None:
    runtime = onnxruntime.InferenceSession(proto.SerializeToString())
    case = {name: value[:3].copy() for name, value in inputs.items()}
    case["npho_valid"][0, :4092] = 0
    case["npho"][0, :4092] = 1e10
    case["time"][1] = np.nan
    case["time_valid"][1] = 0
    case["npho_valid"][2] = 1
    with torch.no_grad():
        expected = network(*(torch.from_numpy(case[t.name]) for t in INPUTS))
    for tensor, value in zip(OUTPUTS, runtime.run(None, case), strict=True):
        assert relative_difference(value, expected[tensor.name].numpy()) < 1e-4, tensor.name


def test_the_graph_is_plain_and_speaks_the_contract(proto: onnx.ModelProto) -> None:
    assert {o.domain for o in proto.opset_import} == {""}
    assert not proto.functions
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in proto.graph.initializer)
    assert [i.name for i in proto.graph.input] == [t.name for t in INPUTS]
    assert [o.name for o in proto.graph.output] == [t.name for t in OUTPUTS]
    for value in [*proto.graph.input, *proto.graph.output]:
        batch = value.type.tensor_type.shape.dim[0]
        assert batch.dim_param, value.name


def test_convolutions_are_dense(proto: onnx.ModelProto) -> None:
    """Sparse pretraining carries visibility down the grids by max pooling; none of it is left."""
    operators = {node.op_type for node in proto.graph.node}
    assert "Conv" in operators
    assert "MaxPool" not in operators


def test_no_path_of_the_exporting_machine_is_inside(proto: onnx.ModelProto) -> None:
    content = proto.SerializeToString()
    assert str(Path(__file__).parents[1]).encode() not in content
    assert b".py" not in content


def test_provenance_and_calibration_are_in_the_metadata(proto: onnx.ModelProto) -> None:
    values = {p.key: p.value for p in proto.metadata_props}
    assert values["geometry_hash"] == parametric().hash
    assert values["model_version"] == "3"
    assert values["contract_version"] == "1"
    assert json.loads(values["interval_scale"]) == {"energy": 1.25}
    assert json.loads(values["reliability"]) == {"domain": None}
    assert json.loads(values["training"]) == {"events": 5, "seed": 1}


def test_sigmas_leave_the_graph_scaled(network, inputs) -> None:
    tensors = [torch.from_numpy(inputs[t.name][:2]) for t in INPUTS]
    with torch.no_grad():
        prediction, outputs = network.predict(*tensors), network(*tensors)
    depth = CURVES["depth"].at(prediction.uvw[:, 2].numpy())[:, :1]
    factor = torch.tensor(1.5 * 1.1 * depth, dtype=torch.float32)
    assert torch.allclose(outputs["energy_sigma"], factor * prediction.energy_log_sigma.exp())
    assert torch.equal(outputs["energy"], prediction.energy)


def test_the_command_writes_a_whole_repository(repository: Path) -> None:
    folder = repository / "3"
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["files"]["model.onnx"]
    assert entry["sha256"] == sha256_of_file(folder / "model.onnx")
    assert entry["bytes"] == (folder / "model.onnx").stat().st_size
    card = (repository / "README.md").read_text()
    for word in ("synthetic", "neighbour average", "solid angle", entry["sha256"], "xec train"):
        assert word in card


def test_nothing_is_written_when_the_graph_differs(
    tmp_path: Path, network, proto, monkeypatch
) -> None:
    save_checkpoint(tmp_path / "c", network, DESCRIPTION)
    changed = with_other_weights(proto)
    monkeypatch.setattr(session, "to_onnx", lambda *_: changed)
    with pytest.raises(ModelError, match="Nothing was written"):
        session.run_export(tmp_path / "c", tmp_path / "r", "1", 20, None, ONE)
    assert not (tmp_path / "r").exists()
