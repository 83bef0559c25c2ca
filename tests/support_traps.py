"""A real model with traps: an event that it never comes back from, and one that takes all memory.

The traps are in the graph, so that what hangs or fails is ONNX Runtime itself, in native code.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import build_stub_model, random_events, write_model
from xec.event import Event

HANGS, DEVOURS = 2e6, 2e7  # photons in channel 0
_HANG_FROM, _DEVOUR_FROM = 1e6, 1e7
_HUGE = 1 << 45  # numbers, 140 TB


def _forever() -> Any:
    """The body of a loop that goes on as long as its condition, which nothing changes."""
    from onnx import TensorProto, helper

    def value(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [])

    nodes = [
        helper.make_node("Identity", ["goes_on"], ["goes_on_still"]),
        helper.make_node("Add", ["turns", "one"], ["more_turns"]),
    ]
    given = [("turn", TensorProto.INT64), ("goes_on", TensorProto.BOOL)]
    found = [("goes_on_still", TensorProto.BOOL), ("more_turns", TensorProto.FLOAT)]
    return helper.make_graph(
        nodes,
        "forever",
        [*(value(*one) for one in given), value("turns", TensorProto.FLOAT)],
        [value(*one) for one in found],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )


def _nodes() -> list[Any]:
    from onnx import TensorProto, helper

    node = helper.make_node
    return [
        node("Slice", ["npho", "trap_start", "trap_end", "trap_axis"], ["trap_light"]),
        node("ReduceMax", ["trap_light"], ["trap_most"], keepdims=0),
        node("Greater", ["trap_most", "trap_hang"], ["trap_bright"]),
        node("Greater", ["trap_most", "trap_devour"], ["trap_devours"]),
        node("Not", ["trap_devours"], ["trap_spares"]),
        node("And", ["trap_bright", "trap_spares"], ["trap_hangs"]),
        node("Loop", ["", "trap_hangs", "trap_zero"], ["trap_turns"], body=_forever()),
        node("Cast", ["trap_devours"], ["trap_number"], to=TensorProto.INT64),
        node("Mul", ["trap_number", "trap_huge"], ["trap_length"]),
        node("ConstantOfShape", ["trap_length"], ["trap_memory"]),
        node("ReduceSum", ["trap_memory"], ["trap_sum"], keepdims=0),
        node("Add", ["trap_turns", "trap_sum"], ["trap_nothing"]),
        node("Add", ["energy_untrapped", "trap_nothing"], ["energy"]),
    ]


def trapped_model() -> Any:
    """The stub model; its answers to other events are the stub's."""
    from onnx import TensorProto, checker, helper

    model = build_stub_model()
    graph = model.graph
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == "energy":
                node.output[place] = "energy_untrapped"
    for name, kind, shape, content in (
        ("trap_start", TensorProto.INT64, [1], [0]),
        ("trap_end", TensorProto.INT64, [1], [1]),
        ("trap_axis", TensorProto.INT64, [1], [1]),
        ("trap_hang", TensorProto.FLOAT, [], [_HANG_FROM]),
        ("trap_devour", TensorProto.FLOAT, [], [_DEVOUR_FROM]),
        ("trap_zero", TensorProto.FLOAT, [], [0.0]),
        ("trap_huge", TensorProto.INT64, [1], [_HUGE]),
    ):
        graph.initializer.append(helper.make_tensor(name, kind, shape, content))
    graph.node.extend(_nodes())
    checker.check_model(model)
    return model


def trapped_repository(folder: Path) -> Path:
    """A repository that holds it."""
    write_model(trapped_model(), folder)
    return folder


def event_with(light: float, seed: int = 0) -> Event:
    """A random event with so many photons in channel 0."""
    event = next(iter(random_events(1, seed=seed)))
    npho, valid = event.npho.copy(), event.npho_valid.copy()
    npho[0], valid[0] = light, True
    return replace(event, npho=npho, npho_valid=valid)
