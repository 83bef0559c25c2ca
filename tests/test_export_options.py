"""Whatever can be trained can be exported, to TorchScript and to ONNX, and gives the same answer.

ONNX takes ten seconds per network, so that its rows here cover each option once;
`benchmarks/export_matrix.py` runs every combination.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch

from xec.detector.geometry import parametric
from xec.models.build import GraphMixer, ModelConfig, build_reconstructor, preset
from xec.models.checkpoint import Checkpoint
from xec.models.positions import PositionKind
from xec.models.reconstructor import Reconstructor, SpreadKind
from xec.models.stage import AttentionKind, GridAttention, Placement
from xec.simulation.generator import Generator, SimulationConfig
from xec_export.events import contract_inputs, with_dark_events
from xec_export.fuse import fused
from xec_export.onnx import to_onnx
from xec_export.parity import compare, require_parity
from xec_export.torchscript import compare_torchscript, to_torchscript

ATTENTION = [GridAttention("none", "none")] + [
    GridAttention(kind, placement)
    for kind in get_args(AttentionKind)
    if kind != "none"
    for placement in ("last", "every")
]
ONNX_ATTENTION = [
    GridAttention("none", "none"),
    GridAttention("se", "last"),
    GridAttention("cbam", "every"),
    GridAttention("nonlocal", "every"),
    GridAttention("se", "every"),
]
POSITIONS: tuple[PositionKind, ...] = get_args(PositionKind)
MIXERS: tuple[GraphMixer, ...] = get_args(GraphMixer)
SPREADS: tuple[SpreadKind, ...] = get_args(SpreadKind)


def combination(
    attention: GridAttention,
    positions: PositionKind,
    mixer: GraphMixer,
    spread: SpreadKind = "detached",
    noise_floor: bool = False,
) -> ModelConfig:
    return replace(
        preset("tiny"),
        attention=attention,
        positions=positions,
        graph_mixer=mixer,
        spread=spread,
        noise_floor=noise_floor,
    )


def rows() -> list[ModelConfig]:
    """Every kind of attention and of positions; the other options in turn, so that each occurs."""
    return [
        combination(
            attention,
            POSITIONS[i % len(POSITIONS)],
            MIXERS[i % len(MIXERS)],
            SPREADS[i % len(SPREADS)],
            noise_floor=i % 2 == 1,
        )
        for i, attention in enumerate(ONNX_ATTENTION)
    ]


def label(config: ModelConfig) -> str:
    a = config.attention
    parts = [a.kind, a.placement, config.positions, config.graph_mixer, config.spread]
    return "-".join([*parts, "noise" if config.noise_floor else "free"])


def network(config: ModelConfig) -> Reconstructor:
    """A network in which nothing is zero, so that nothing can be optimised away unseen."""
    torch.manual_seed(4)
    model = build_reconstructor(config, parametric()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim and not parameter.any():
                parameter.normal_(std=0.02)
    return model


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    """Events with dead sensors, two dark ones, and a face that is dead."""
    found = with_dark_events(
        contract_inputs(Generator(SimulationConfig(), parametric(), "cpu", 41).sample(64))
    )
    for name in ("npho_valid", "time_valid"):
        found[name][3, :4092] = 0
    return found


def test_the_rows_of_onnx_cover_every_option() -> None:
    assert {c.attention.kind for c in rows()} == set(get_args(AttentionKind))
    assert {c.attention.placement for c in rows()} == set(get_args(Placement))
    assert {c.positions for c in rows()} == set(POSITIONS)
    assert {c.graph_mixer for c in rows()} == set(MIXERS)
    assert {c.spread for c in rows()} == set(SPREADS)
    assert {c.noise_floor for c in rows()} == {True, False}


@pytest.mark.parametrize("config", rows(), ids=label)
def test_every_option_has_the_same_answer_in_onnx(config: ModelConfig, inputs) -> None:
    model = network(config)
    description = Checkpoint(config, "tiny", parametric().hash)
    proto = to_onnx(fused(model), description, "1")
    assert {o.domain for o in proto.opset_import} == {""}
    operators = {node.op_type for node in proto.graph.node}
    assert "MaxPool" not in operators  # what carries visibility; convolutions are dense
    require_parity(compare(model, proto.SerializeToString(), inputs))


EVERYTHING = [
    *(
        combination(attention, positions, MIXERS[i % 2])
        for i, (attention, positions) in enumerate(product(ATTENTION, POSITIONS))
    ),
    *(
        combination(ATTENTION[0], "learnable", "gatv2", s, n)
        for s in SPREADS
        for n in (True, False)
    ),
]


@pytest.mark.parametrize("config", EVERYTHING, ids=label)
def test_every_combination_has_the_same_answer_in_torchscript(config: ModelConfig, inputs) -> None:
    model = network(config)
    differences = compare_torchscript(model, to_torchscript(model), inputs, (7,))
    require_parity(differences, 1e-5)


def test_torchscript_of_other_weights_is_noticed(inputs) -> None:
    """Negative control; a fresh network, as a traced module shares its weights with the old one."""
    traced = to_torchscript(network(rows()[0]))
    other = network(rows()[0])
    with torch.no_grad():
        other.encoder.fusion.norm.weight.mul_(1.01)
    assert max(d.relative for d in compare_torchscript(other, traced, inputs, (7,))) > 1e-5
