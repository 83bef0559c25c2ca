"""One half of the network as a graph of its own: what its outputs do not need is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from xec.contract import MODEL_NAME, outputs_of


def graph_of(whole: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The graph of one model of the contract, cut out of that of the whole network.

    All inputs stay, since they are the contract's, also where a half does not look at one. The
    answers are those of the whole graph.

    Args:
        whole: graph of the whole network.
        name: of the model (`xec.contract.MODELS`).
    """
    if name == MODEL_NAME:
        return whole
    half = onnx.ModelProto()
    half.CopyFrom(whole)
    graph = half.graph
    wanted = {tensor.name for tensor in outputs_of(name)}
    outputs = [o for o in graph.output if o.name in wanted]
    nodes = _needed(list(graph.node), wanted)
    used = {value for node in nodes for value in (*node.input, *node.output)}
    _replace(graph.output, outputs)
    _replace(graph.node, nodes)
    _replace(graph.initializer, [t for t in graph.initializer if t.name in used])
    _replace(graph.value_info, [v for v in graph.value_info if v.name in used])
    for entry in half.metadata_props:
        if entry.key == "model_name":
            entry.value = name
    onnx.checker.check_model(half, full_check=True)
    return half


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes on the way to the wanted values, in their order, which is that of computing."""
    reached, kept = set(wanted), []
    for node in reversed(nodes):
        if reached.isdisjoint(node.output):
            continue
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ValueError(f"{node.name} holds a graph, whose inputs are not looked at here")
        reached.update(node.input)
        kept.append(node)
    return kept[::-1]


def _replace(field: Any, values: Sequence[Any]) -> None:
    del field[:]
    field.extend(values)
