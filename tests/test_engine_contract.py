"""A model that does not keep the contract is refused: tensors, widths, values, metadata."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from support_engine import TWO, refused
from xec.detector.channels import N_CHANNELS
from xec.engines.onnx import OnnxEngine


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
