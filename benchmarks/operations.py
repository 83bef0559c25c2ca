"""Floating-point operations of a graph for one event: those of its products and convolutions.

A multiplication and an addition count as two. Everything else (activations, norms, copies) counts
as nothing, so that a share of a machine's rate of products says how much of the time is not spent
in them.
"""

from __future__ import annotations

import math
from typing import Final

import onnx

Shapes = dict[str, tuple[int, ...]]

PRODUCTS: Final = ("MatMul", "Gemm", "Conv")


def operations(proto: onnx.ModelProto) -> int:
    """Operations for one event, from the shapes in the graph.

    Raises:
        ValueError: the shapes of a product cannot be inferred.
    """
    shapes = _shapes(_for_one_event(proto))
    return sum(_of(node, shapes) for node in proto.graph.node if node.op_type in PRODUCTS)


def _for_one_event(proto: onnx.ModelProto) -> onnx.ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return onnx.shape_inference.infer_shapes(fixed, data_prop=True)


def _shapes(proto: onnx.ModelProto) -> Shapes:
    graph = proto.graph
    found = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def _of(node: onnx.NodeProto, shapes: Shapes) -> int:
    if missing := [name for name in (*node.input[:2], node.output[0]) if name not in shapes]:
        raise ValueError(f"the shape of {missing[0]} cannot be inferred")
    result, first, second = (shapes[n] for n in (node.output[0], *node.input[:2]))
    if node.op_type == "Conv":
        return 2 * math.prod(result) * math.prod(second[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * math.prod(result) * first[-2 if transposed else -1]
