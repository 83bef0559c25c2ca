"""The backend's own rules, where they need no Triton: settings, files, joined calls."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import build_stub_model, stub_answers
from support_triton import TYPES
from xec.contract import INPUTS, OUTPUTS
from xec.errors import ModelError
from xec.lineage import sha256_of_bytes
from xec_server.triton import layout
from xec_server.triton.shim.calls import answers_of, events_of, in_pieces, joined_run
from xec_server.triton.shim.model_file import new_session, uniform
from xec_server.triton.shim.settings import Settings, settings_of, usable_cores

CONTENT = build_stub_model().SerializeToString()
PACKAGE = Path(layout.__file__).parent


def config(parameters: dict[str, str] | None = None, **settings: Any) -> str:
    """What Triton hands over, cut to what a backend may look at."""
    content = {
        "name": "stub",
        "backend": "onnxruntime",
        "max_batch_size": 64,
        "input": [{"name": t.name, "data_type": TYPES[t.dtype], "dims": [t.width]} for t in INPUTS],
        "output": [
            {"name": t.name, "data_type": TYPES[t.dtype], "dims": [t.width]} for t in OUTPUTS
        ],
        "optimization": {"priority": "PRIORITY_DEFAULT", "eager_batching": False},
        "dynamic_batching": {"preferred_batch_size": [4, 8], "max_queue_delay_microseconds": 2000},
        "parameters": {k: {"string_value": v} for k, v in (parameters or {}).items()},
        "batch_input": [],
        "default_model_filename": "model.onnx",
        **settings,
    }
    return json.dumps(content)


def test_defaults() -> None:
    settings = settings_of(config())
    assert (settings.max_batch, settings.largest_batch, settings.threads) == (64, 64, 1)
    assert settings.warm == (1, 4, 8, 64)
    assert settings.outputs["uvw"] == ("tensor(float)", (3,))
    assert settings.inputs["npho_valid"] == ("tensor(uint8)", (4760,))
    assert settings.sha256 is None


def test_parameters_are_followed() -> None:
    settings = settings_of(config({"largest_batch": "8", "intra_op_thread_count": "3"}))
    assert (settings.largest_batch, settings.threads, settings.warm) == (8, 3, (1, 4, 8))
    steady = settings_of(config({"reproducible": "true", "sha256": "7", "geometry_hash": "9"}))
    assert (steady.largest_batch, steady.warm, steady.sha256) == (1, (1,), "7")
    assert settings_of(config(optimization={"graph": {"level": -1}})).graph_level == "basic"


def test_options_of_gpus_keep_their_names() -> None:
    cuda = {"name": "cuda", "parameters": {"use_tf32": "0"}}
    tensorrt = {
        "name": "tensorrt",
        "parameters": {"precision_mode": "FP16", "max_workspace_size_bytes": "7"},
    }
    wanted = {"execution_accelerators": {"gpu_execution_accelerator": [tensorrt, cuda]}}
    first, second = settings_of(config(optimization=wanted)).accelerators
    assert first.provider == "TensorrtExecutionProvider"
    assert first.options == {"trt_fp16_enable": "1", "trt_max_workspace_size": "7"}
    assert second.provider == "CUDAExecutionProvider"
    assert second.options == {"use_tf32": "0"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (config({"threads": "2"}), "has the parameter threads, which this backend does not"),
        (config({"intra_op_thread_count": "two"}), "intra_op_thread_count of stub is 'two'"),
        (config({"intra_op_thread_count": "-1"}), "intra_op_thread_count of stub is '-1'"),
        (config({"inter_op_thread_count": "2"}), "one after the other"),
        (config({"largest_batch": "0"}), "largest_batch of stub is '0'"),
        (config({"reproducible": "yes"}), "reproducible of stub is 'yes': write true or false"),
        (config({"reproducible": "true", "largest_batch": "2"}), "contradicts itself"),
        (config(max_batch_size=0), "must have a max_batch_size of 1 or more"),
        (config(sequence_batching={"max_sequence_idle_microseconds": 1}), "sequence_batching"),
        (config(ensemble_scheduling={"step": [{}]}), "the setting ensemble_scheduling"),
        (config(optimization={"cuda": {"graphs": True}}), "the optimization cuda"),
        (config(optimization={"graph": {"level": 7}}), "The graph level 7 of stub is unknown"),
        (
            config(
                optimization={
                    "execution_accelerators": {
                        "cpu_execution_accelerator": [{"name": "openvino"}],
                    }
                }
            ),
            "the CPU accelerator openvino",
        ),
        (
            config(
                optimization={
                    "execution_accelerators": {
                        "gpu_execution_accelerator": [
                            {"name": "tensorrt", "parameters": {"precision_mode": "INT8"}}
                        ],
                    }
                }
            ),
            "precision_mode of stub is INT8: write FP32 or FP16",
        ),
    ],
)
def test_what_it_does_not_follow_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        settings_of(text)
    assert "\n" not in str(caught.value)


def version_folder(folder: Path, content: bytes, promised: bytes | None = None) -> Path:
    folder = folder / "stub" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    if promised is not None:
        entry = {"sha256": sha256_of_bytes(promised)}
        (folder / "manifest.json").write_text(json.dumps({"files": {"model.onnx": entry}}))
    return folder


def load(folder: Path, settings: Settings | None = None, device: int | None = None) -> Any:
    return new_session(folder, settings or settings_of(config({"largest_batch": "2"})), device)


def test_a_session_answers_as_numpy_does(tmp_path: Path) -> None:
    settings = settings_of(config({"sha256": sha256_of_bytes(CONTENT), "largest_batch": "2"}))
    session = load(version_folder(tmp_path, CONTENT, CONTENT), settings)
    inputs = uniform(settings, 2)
    answers = dict(zip(settings.outputs, session.run(list(settings.outputs), inputs), strict=True))
    for name, expected in stub_answers(inputs).items():
        np.testing.assert_allclose(answers[name], expected, rtol=1e-5, atol=1e-5)


def test_altered_bytes_are_refused(tmp_path: Path) -> None:
    folder = version_folder(tmp_path, CONTENT, CONTENT + b"x")
    with pytest.raises(ModelError, match=r"its sha256 .* is not that of the manifest"):
        load(folder)
    (folder / "manifest.json").unlink()
    load(folder)
    other = settings_of(config({"sha256": "0" * 64}))
    with pytest.raises(ModelError, match=r"its sha256 .* is not that of the configuration"):
        load(folder, other)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ModelError, match=r"names no sha256 of model\.onnx"):
        load(folder)


def test_a_missing_file_and_foreign_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx cannot be read: No such file"):
        load(tmp_path)
    with pytest.raises(ModelError, match="are not those of an ONNX model"):
        load(version_folder(tmp_path, b"\xff" * 100))


def test_external_data_and_custom_operators_are_refused(tmp_path: Path) -> None:
    model = build_stub_model()
    model.graph.initializer[0].data_location = 1
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    with pytest.raises(ModelError, match="is refused: it keeps data in other files"):
        load(version_folder(tmp_path / "external", model.SerializeToString()))
    model = build_stub_model()
    model.graph.node[0].domain = "com.example"
    with pytest.raises(ModelError, match=r"is refused: it uses custom operators of com\.example"):
        load(version_folder(tmp_path / "custom", model.SerializeToString()))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"output": []}, "in it only none; in the graph only angle"),
        (
            {"input": [{"name": "npho", "data_type": "TYPE_FP32", "dims": [4760]}]},
            "contradicts the inputs of",
        ),
    ],
)
def test_a_configuration_of_other_tensors_is_refused(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        load(version_folder(tmp_path, CONTENT), settings_of(config(**settings)))


@pytest.mark.parametrize("change", [{"dims": [4]}, {"data_type": "TYPE_FP64"}, {"dims": [3, 1]}])
def test_a_tensor_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    content = json.loads(config())
    (entry,) = [output for output in content["output"] if output["name"] == "uvw"]
    entry.update(change)
    with pytest.raises(ModelError, match=r"contradicts .*: uvw is a tensor"):
        load(version_folder(tmp_path, CONTENT), settings_of(json.dumps(content)))


def test_a_gpu_that_the_runtime_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="wants CUDAExecutionProvider, and the ONNX Runtime"):
        load(version_folder(tmp_path, CONTENT), device=0)


def test_calls_side_by_side_are_counted_by_cores() -> None:
    assert settings_of(config()).calls_at_once == 1
    assert settings_of(config({"calls_at_once": "3"})).calls_at_once == 3
    assert settings_of(config({"calls_at_once": "0"})).calls_at_once == usable_cores() >= 1


def doubled(inputs: Any) -> dict[str, np.ndarray]:
    """A computation whose answer tells event from event, and counts its calls."""
    calls.append(len(inputs["a"]))
    return {"out": 2 * inputs["a"]}


calls: list[int] = []


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize(("largest", "sizes"), [(64, [6]), (4, [4, 2]), (1, [1] * 6)])
def test_requests_are_joined_cut_and_parted(largest: int, sizes: list[int], at_once: int) -> None:
    calls.clear()
    events = np.random.default_rng(3).normal(size=(6, 5))
    requests = [{"a": events[0:1]}, {"a": events[1:4]}, {"a": events[4:6]}]
    answers = joined_run(requests, in_pieces(doubled, largest, at_once))
    assert sorted(calls, reverse=True) == sizes
    assert [len(answer["out"]) for answer in answers] == [1, 3, 2]
    np.testing.assert_array_equal(np.concatenate([a["out"] for a in answers]), 2 * events)


def test_an_error_hits_the_request_that_causes_it() -> None:
    def roots(inputs: Any) -> dict[str, np.ndarray]:
        if (inputs["a"] < 0).any():
            raise ArithmeticError("a root of a negative number")
        return {"out": np.sqrt(inputs["a"])}

    requests = [{"a": np.array([[4.0]])}, {"a": np.array([[9.0], [-1.0]])}, {"a": np.ones((1, 1))}]
    first, second, third = answers_of(requests, roots)
    assert isinstance(first, dict)
    assert isinstance(third, dict)
    assert (first["out"], third["out"]) == ([[2.0]], [[1.0]])
    assert isinstance(second, ArithmeticError)
    assert [type(answer) for answer in answers_of(requests[:1], roots)] == [dict]


def test_a_request_that_contradicts_itself_is_refused() -> None:
    assert events_of({"a": np.zeros((3, 1)), "b": np.zeros((3, 2))}) == 3
    with pytest.raises(ValueError, match="different numbers of events: a 3, b 2"):
        events_of({"a": np.zeros((3, 1)), "b": np.zeros((2, 1))})
    with pytest.raises(ValueError, match="holds no event"):
        events_of({"a": np.zeros((0, 1))})


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_the_backend_imports_only_what_is_laid_out() -> None:
    """Its interpreter has NumPy and ONNX Runtime; of ours, the copied files."""
    core = PACKAGE.parents[2] / "src" / "xec"
    shared = [core / name for name in layout.SHARED]
    files = [*(PACKAGE / "shim").glob("*.py"), PACKAGE / "backend" / "model.py", *shared]
    assert len(files) >= 6
    ours = {name for path in files for name in imports(path) if name.startswith("xec")}
    copied = {f"xec.{name.removesuffix('.py').replace('/', '.')}" for name in layout.SHARED}
    shim = {f"xec_server.triton.shim.{path.stem}" for path in (PACKAGE / "shim").glob("*.py")}
    assert ours <= copied | shim
    assert "xec.errors" in ours
