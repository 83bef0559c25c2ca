"""Bytes that are no model, or a model that would reach outside of them, are refused."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from support_engine import refused
from xec.detector.channels import N_CHANNELS
from xec.engines.onnx_bytes import check_self_contained
from xec.errors import ModelError


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
