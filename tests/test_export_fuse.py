"""The fused view computes what the trained network does; a fold with a term left out is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xec.contract import INPUTS, OUTPUTS
from xec.detector.geometry import parametric
from xec.models.build import ModelConfig, build_reconstructor, preset
from xec.models.calibration import Curve
from xec.models.convnext import ConvNeXtBlock
from xec.models.reconstructor import Reconstructor
from xec.models.stage import GridAttention
from xec.simulation.generator import Generator, SimulationConfig
from xec_export.events import contract_inputs, with_dark_events
from xec_export.fuse import fused
from xec_export.fused_layers import FusedBlock, FusedGraphAttention, FusedSensorHead
from xec_export.fused_sensors import FusedNeighbourMean
from xec_export.parity import relative_difference

CURVES = {
    "depth": Curve(np.array([1.0, 3.0, 8.0]), np.linspace(0.5, 2.0, 21).reshape(3, 7)),
    "inner": Curve(np.array([0.0, 4.0, 6.0]), np.array([[0.9, 1.1], [1.6, 0.7], [1.2, 1.3]])),
    "pmt": Curve(np.array([0.0, 4.0]), np.array([[1.2, 1.1], [0.6, 1.7]])),
}
CONFIGS = [
    preset("tiny"),
    replace(preset("tiny"), attention=GridAttention("se", "every"), positions="rotary"),
    replace(preset("tiny"), attention=GridAttention("cbam", "last"), graph_mixer="hexagonal"),
    replace(preset("tiny"), attention=GridAttention("nonlocal", "every"), positions="alibi"),
    replace(preset("tiny"), spread="separate", noise_floor=True, positions="sinusoidal"),
    replace(preset("tiny"), spread="shared", positions="geometric"),
]


def network(config: ModelConfig) -> Reconstructor:
    """Nothing is zero or one: affines, GRN and the heads' last layers among it."""
    torch.manual_seed(4)
    model = build_reconstructor(config, parametric()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.normal_(std=0.5)
            elif parameter.ndim:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    model.sigma_scale.set_curves(CURVES)
    return model


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, ...]:
    """Events with dead sensors, two dark ones, and one without its inner face."""
    source = Generator(SimulationConfig(), parametric(), "cpu", 43)
    found = with_dark_events(contract_inputs(source.sample(6)))
    found["npho_valid"][1, :4092] = 0
    return tuple(torch.from_numpy(found[t.name]) for t in INPUTS)


@torch.no_grad()
def difference(model: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """The largest of all outputs, relative to their size."""
    kind = next(model.parameters()).dtype
    npho, time, *valid = inputs
    first, second = (m(npho.to(kind), time.to(kind), *valid) for m in (model, other))
    return max(relative_difference(second[t.name].numpy(), first[t.name].numpy()) for t in OUTPUTS)


def label(config: ModelConfig) -> str:
    kind = config.attention.kind
    return f"{kind}-{config.positions}-{config.graph_mixer}-{config.spread}"


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_the_fused_view_is_the_network(config: ModelConfig, inputs: tuple[Tensor, ...]) -> None:
    model = network(config)
    assert difference(model, fused(model), inputs) < 1e-5
    model.double()
    assert difference(model, fused(model), inputs) < 1e-11


def test_every_plain_block_is_exchanged_and_the_network_stays_as_it_was() -> None:
    model = network(preset("tiny"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    view = fused(model)
    assert not [m for m in view.modules() if isinstance(m, ConvNeXtBlock)]
    kinds = {type(m) for m in view.modules()}
    assert {FusedBlock, FusedGraphAttention, FusedSensorHead, FusedNeighbourMean} <= kinds
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for parameter in view.parameters():
        parameter.data.zero_()
    assert torch.equal(next(model.parameters()), before[next(iter(before))])


def first(view: nn.Module, kind: type[nn.Module]) -> Any:
    return next(m for m in view.modules() if isinstance(m, kind))


def without_gamma(view: nn.Module) -> None:
    first(view, FusedBlock).gamma.zero_()


def without_beta(view: nn.Module, plain: ConvNeXtBlock) -> None:
    first(view, FusedBlock).project_bias.copy_(plain.project.bias[:, None, None])


def without_the_norms_bias(view: nn.Module, plain: ConvNeXtBlock) -> None:
    first(view, FusedBlock).expand_bias.copy_(plain.expand.bias)


def without_the_norms_weight(view: nn.Module, plain: ConvNeXtBlock) -> None:
    first(view, FusedBlock).expand_weight.copy_(plain.expand.weight.t())


def without_edges(view: nn.Module) -> None:
    first(view, FusedGraphAttention).edges.zero_()


def without_one_neighbour(view: nn.Module) -> None:
    first(view, FusedNeighbourMean).band[4 * 44, 1] = 0.0


@pytest.mark.parametrize(
    "damage",
    [
        without_gamma,
        without_beta,
        without_the_norms_bias,
        without_the_norms_weight,
        without_edges,
        without_one_neighbour,
    ],
)
def test_a_term_left_out_is_noticed(
    damage: Callable[..., None], inputs: tuple[Tensor, ...]
) -> None:
    """Negative control, in the tolerance of float32."""
    model = network(preset("tiny"))
    view = fused(model)
    block = first(model, ConvNeXtBlock)
    with torch.no_grad():
        damage(*(view, block)[: damage.__code__.co_argcount])
    assert difference(model, view, inputs) > 1e-5


def test_a_visibility_is_refused() -> None:
    block = FusedBlock(ConvNeXtBlock(4))
    x = torch.zeros(1, 4, 5, 5)
    with pytest.raises(ValueError, match="no visibility"):
        block(x, torch.ones(1, 1, 5, 5))
