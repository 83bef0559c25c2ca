"""The embedded engine on a real graph: right answers, and a refusal for each bad model."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from xec.contract import OUTPUTS
from xec.detector.channels import N_CHANNELS
from xec.engines.base import tensors_of
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.engines.onnx_bytes import check_self_contained
from xec.engines.repository import read_model
from xec.errors import EngineError, ModelError, UsageError
from xec.event import EventBatch

Events = Callable[..., EventBatch]
TWO = OnnxSettings(sessions=2, largest_batch=4)


@pytest.fixture
def engine(stub_repository: Path) -> OnnxEngine:
    return OnnxEngine(stub_repository, TWO)


@pytest.mark.parametrize("count", [1, 3, 4, 11])
def test_answers_are_those_of_the_graph(
    count: int, engine: OnnxEngine, events: Events, answers: Any
) -> None:
    """Against the same functions in NumPy float64; 4760-term float32 sums carry 1e-5."""
    batch = events(count)
    outputs = engine.infer(tensors_of(batch))
    expected = answers(batch)
    assert outputs.keys() == {tensor.name for tensor in OUTPUTS}
    for tensor in OUTPUTS:
        assert outputs[tensor.name].shape == (count, tensor.width)
        assert outputs[tensor.name].dtype == np.float32
        np.testing.assert_allclose(
            outputs[tensor.name], expected[tensor.name], rtol=1e-4, atol=1e-4, err_msg=tensor.name
        )


def test_many_threads_get_their_own_answers(
    engine: OnnxEngine, events: Events, answers: Any
) -> None:
    batch = events(24)
    expected = answers(batch)["energy"]
    with ThreadPoolExecutor(8) as threads:
        rows = [tensors_of(batch[row : row + 1]) for row in range(24)] * 5
        got = [outputs["energy"][0, 0] for outputs in threads.map(engine.infer, rows)]
    np.testing.assert_allclose(got, np.tile(expected[:, 0], 5), rtol=1e-4)
    assert len(np.unique(got)) == 24


def test_several_threads_per_session_answer_the_same(
    stub_repository: Path, engine: OnnxEngine, events: Events
) -> None:
    settings = OnnxSettings(sessions=2, threads_per_session=2)
    inputs = tensors_of(events(5))
    other = OnnxEngine(stub_repository, settings).infer(inputs)
    for name, values in engine.infer(inputs).items():
        np.testing.assert_allclose(other[name], values, rtol=1e-5, err_msg=name)


def test_one_event_per_call_makes_answers_independent_of_the_others(
    stub_repository: Path, events: Events
) -> None:
    engine = OnnxEngine(stub_repository, OnnxSettings(sessions=2, largest_batch=1))
    batch = events(9)
    together = engine.infer(tensors_of(batch))
    for row in range(9):
        alone = engine.infer(tensors_of(batch[row : row + 1]))
        for name, values in alone.items():
            assert values[0].tobytes() == together[name][row].tobytes(), name


def test_identity_comes_from_the_model(stub_repository: Path, engine: OnnxEngine) -> None:
    model = engine.model
    assert (model.name, model.version) == ("reconstruct", "stub-1")
    assert model.sha256 == read_model(stub_repository).sha256
    assert model.interval_scale == {"energy": 1.5, "uvw": 0.5}
    assert model.metadata["preset"] == "stub"


def test_the_highest_version_is_served(tmp_path: Path, save_model: Any, stub_model: Any) -> None:
    for version in (2, 10, 9):
        save_model(stub_model({"model_version": f"v{version}"}), tmp_path, version)
    assert OnnxEngine(tmp_path, TWO).model.version == "v10"
    assert OnnxEngine(tmp_path, TWO, version=9).model.version == "v9"


def test_a_closed_engine_says_so(stub_repository: Path, events: Events) -> None:
    engine = OnnxEngine(stub_repository, TWO)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(tensors_of(events(1)))


def test_wrong_tensors_are_an_engine_error(engine: OnnxEngine, events: Events) -> None:
    inputs = {name: values[:, :-1] for name, values in tensors_of(events(1)).items()}
    with pytest.raises(EngineError, match="Got: 4759 Expected: 4760"):
        engine.infer(inputs)


@pytest.mark.parametrize(
    "settings",
    [
        {"sessions": -1},
        {"threads_per_session": 0},
        {"largest_batch": 0},
    ],
)
def test_impossible_settings(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        OnnxSettings(**settings)


def test_buckets_reach_the_largest_batch() -> None:
    assert OnnxSettings(largest_batch=8).buckets == (1, 2, 4, 8)
    assert OnnxSettings(largest_batch=6).buckets == (1, 2, 4, 6)
    assert OnnxSettings(largest_batch=1).buckets == (1,)


# --- models that are refused -------------------------------------------------------------------


def refused(repository: Path, match: str, **arguments: Any) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        OnnxEngine(repository, TWO, **arguments)
    assert "\n" not in str(caught.value)


def test_missing_things_are_named(tmp_path: Path, stub_repository: Path) -> None:
    refused(tmp_path / "nowhere", "no model repository")
    refused(tmp_path, "no model named reconstruct")
    refused(stub_repository, "no version 7; there is 1", version=7)
    (tmp_path / "reconstruct" / "latest").mkdir(parents=True)
    refused(tmp_path, "no version")


@pytest.mark.parametrize("position", [0, 1000, -1])
def test_one_flipped_bit_is_corruption(
    position: int, tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    path = save_model(stub_model(), tmp_path)
    OnnxEngine(tmp_path, TWO)  # the same folder is fine before
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    refused(tmp_path, "corrupted or was changed")


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "names no sha256"),
        ('{"files": {"model.onnx": "x"}}', "names no sha256"),
    ],
)
def test_a_bad_manifest(
    manifest: str | None, match: str, tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    path = save_model(stub_model(), tmp_path).with_name("manifest.json")
    path.unlink()
    if manifest is not None:
        path.write_text(manifest)
    refused(tmp_path, match)


@pytest.mark.parametrize("content", [b"", b"hello, world", b"\x0a\xff\xff\xff\xff\x0f", b"\0" * 64])
def test_bytes_that_are_no_model(content: bytes, tmp_path: Path, save_model: Any) -> None:
    save_model(content, tmp_path)
    refused(tmp_path, "not those of an ONNX model|not a model that ONNX Runtime can run")


def test_half_a_model(tmp_path: Path, save_model: Any, stub_model: Any) -> None:
    content = stub_model().SerializeToString()
    save_model(content[: len(content) // 2], tmp_path)
    refused(tmp_path, "not those of an ONNX model")


def external(model: Any, location: str) -> Any:
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [1, N_CHANNELS])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return model


def test_data_in_other_files_is_refused(
    tmp_path: Path, save_model: Any, stub_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although ONNX Runtime would take it from the working directory, even given bytes."""
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(np.ones(N_CHANNELS, dtype=np.float32).tobytes())
    save_model(external(stub_model(), "weights.bin"), tmp_path)
    refused(tmp_path, "keeps data in other files")


def nested(model: Any, inner: Any) -> Any:
    """The model with `inner`, a node, inside a branch of an If."""
    shape = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, None)
    branch = helper.make_graph([inner], "branch", [], [shape])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(true)
    model.graph.node.append(
        helper.make_node("If", ["true"], ["choice"], then_branch=branch, else_branch=branch)
    )
    return model


@pytest.mark.parametrize("depth", ["top", "branch"])
def test_custom_operators_are_refused(
    depth: str, tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    node = helper.make_node("Load", [], ["hidden"], domain="evil.ops")
    model = stub_model()
    if depth == "top":
        model.graph.node.append(node)
    else:
        nested(model, node)
    save_model(model, tmp_path)
    refused(tmp_path, "custom operators of evil.ops")


def test_external_data_hidden_in_a_branch_is_found(stub_model: Any) -> None:
    tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    model = nested(stub_model(), helper.make_node("Constant", [], ["hidden"], value=tensor))
    with pytest.raises(ModelError, match="other files"):
        check_self_contained(model.SerializeToString())
    tensor.data_location = TensorProto.DEFAULT
    model = nested(stub_model(), helper.make_node("Constant", [], ["hidden"], value=tensor))
    check_self_contained(model.SerializeToString())


@given(st.data())
def test_damaged_bytes_never_crash_the_check(data: st.DataObject) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], domain="a")],
        "g",
        [],
        [],
        [helper.make_tensor("x", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    content = bytearray(helper.make_model(graph).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ModelError):  # and nothing else
        check_self_contained(bytes(content))


def test_subgraphs_without_end_are_refused() -> None:
    content = b""
    for _ in range(300):  # attribute 6 (graph) in node 5 (attribute) in graph 1 (node)
        for tag in (0x32, 0x2A, 0x0A):
            size = len(content)
            varint = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
            content = bytes([tag]) + varint + content
    size = len(content)
    model = bytes([0x3A, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + content
    with pytest.raises(ModelError, match="ONNX model"):
        check_self_contained(model)


def renamed_output(model: Any) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "other"


def missing_output(model: Any) -> None:
    del model.graph.output[-1]


def narrow_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = N_CHANNELS - 1


def fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def float64_input(model: Any) -> None:
    model.graph.input[0].name = "unused"
    wide = helper.make_tensor_value_info("npho", TensorProto.DOUBLE, ["B", N_CHANNELS])
    model.graph.input.append(wide)
    del model.graph.input[0]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "npho":
                node.input[place] = "npho_float"
    cast = helper.make_node("Cast", ["npho"], ["npho_float"], to=TensorProto.FLOAT)
    model.graph.node.insert(0, cast)


def surplus_input(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["B", 1]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (missing_output, "outputs: missing angle_sigma; unknown none"),
        (surplus_input, "inputs: missing none; unknown more"),
        (narrow_input, "npho has shape|ONNX Runtime can run"),
        (fixed_batch, "npho has shape"),
        (float64_input, r"npho is a tensor\(double\), not a tensor\(float\)"),
    ],
)
def test_other_tensors_than_the_contract(
    change: Callable[[Any], None], match: str, tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    model = copy.deepcopy(stub_model())
    change(model)
    save_model(model, tmp_path)
    refused(tmp_path, match)


def widen_by_data(model: Any, name: str) -> None:
    """Repeat an output as often as the largest count says, which no shape inference can know."""
    (node,) = [node for node in model.graph.node if node.output[0] == name]
    node.output[0] = "narrow"
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [1])
    model.graph.initializer.extend([one, shape])
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["npho"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["times"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["times", "shape"], ["times_1"]),
            helper.make_node("Concat", ["one", "times_1"], ["repeats"], axis=0),
            helper.make_node("Tile", ["narrow", "repeats"], [name]),
        ]
    )


def test_an_open_width_is_settled_by_the_warm_up(
    tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    model = stub_model()
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "W"
    save_model(model, tmp_path)
    OnnxEngine(tmp_path, TWO)
    widen_by_data(model, "energy_sigma")
    save_model(model, tmp_path)
    refused(tmp_path, r"energy_sigma with shape \(1, 100\)")


def test_a_model_that_answers_nan_is_refused(
    tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    model = stub_model()
    (node,) = [node for node in model.graph.node if node.output[0] == "energy"]
    node.output[0] = "negative"
    model.graph.node.extend(
        [
            helper.make_node("Neg", ["negative"], ["below_zero"]),
            helper.make_node("Sqrt", ["below_zero"], ["energy"]),
        ]
    )
    save_model(model, tmp_path)
    refused(tmp_path, "non-finite energy")


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"contract_version": "2"}, "contract version 2"),
        ({"geometry_hash": ""}, "lacks geometry_hash"),
        ({"model_version": ""}, "lacks model_version"),
        ({"interval_scale": "much"}, "interval_scale"),
        ({"interval_scale": "[1]"}, "interval_scale"),
        ({"interval_scale": '{"energy": -1}'}, "not positive"),
        ({"interval_scale": '{"energy": NaN}'}, "not positive"),
    ],
)
def test_metadata_that_does_not_fit(
    metadata: dict[str, str], match: str, tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    save_model(stub_model(metadata), tmp_path)
    refused(tmp_path, match)


def test_another_geometry_is_refused(stub_repository: Path) -> None:
    OnnxEngine(stub_repository, TWO, geometry_hash="9" * 64)
    refused(stub_repository, "made for geometry 9999", geometry_hash="8" * 64)


def test_the_stub_is_a_valid_model(stub_repository: Path) -> None:
    onnx.checker.check_model(onnx.load_from_string(read_model(stub_repository).content))


def test_settings_use_every_core_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = random.Random(0).sample(range(64), 12)
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(cores))
    assert OnnxSettings().calls_at_once == 12
    assert OnnxSettings(threads_per_session=5).calls_at_once == 2
    assert OnnxSettings(threads_per_session=99).calls_at_once == 1
    assert OnnxSettings(sessions=3).calls_at_once == 3


def test_the_manifest_may_say_more(tmp_path: Path, save_model: Any, stub_model: Any) -> None:
    path = save_model(stub_model(), tmp_path).with_name("manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "card": "x"}))
    assert OnnxEngine(tmp_path, TWO).model.version == "stub-1"


def test_the_shipped_model_loads_and_is_reproducible(events: Events) -> None:
    repository = Path(__file__).parents[1] / "model_repository"
    stored = read_model(repository)
    assert len(stored.content) <= 10_000_000
    engine = OnnxEngine(repository, OnnxSettings(sessions=1, largest_batch=1))
    inputs = tensors_of(events(3))
    backwards = {name: np.ascontiguousarray(values[::-1]) for name, values in inputs.items()}
    ahead, back = engine.infer(inputs), engine.infer(backwards)
    for name, values in ahead.items():
        assert np.isfinite(values).all(), name
        assert values.tobytes() == back[name][::-1].tobytes(), name
