"""Squeeze-and-excitation and CBAM: timm's layers, a slow masked reference, identity at first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support_timm import import_timm
from xec.models.channel_attention import Cbam, SqueezeExcite, hidden_width
from xec.models.convnext import ConvNeXtBlock

CHANNELS = 20
GATES = [SqueezeExcite, Cbam]


def randomised(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.eval()


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 9, 8, CHANNELS, generator=generator, dtype=torch.float64)


@pytest.fixture
def visible() -> Tensor:
    """Two events with hidden cells and one with nothing else."""
    shown = torch.rand(3, 9, 8, 1, generator=torch.Generator().manual_seed(4)) > 0.6
    shown[2] = False
    return shown.double()


def channels_last(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def copy_bottleneck(theirs: Any, ours: Any) -> None:
    for mine, other in ((ours.bottleneck.reduce, "fc1"), (ours.bottleneck.restore, "fc2")):
        layer = getattr(theirs, other)
        layer.load_state_dict({"weight": mine.weight[:, :, None, None], "bias": mine.bias})


def test_squeeze_and_excitation_is_twice_that_of_timm(x: Tensor) -> None:
    ours = randomised(SqueezeExcite(CHANNELS))
    theirs = import_timm().layers.SqueezeExcite(CHANNELS).double()
    copy_bottleneck(theirs, ours)
    assert (ours(x) - 2.0 * channels_last(theirs, x)).abs().max() < 1e-12


def test_each_gate_of_cbam_is_twice_that_of_timm(x: Tensor) -> None:
    ours = randomised(Cbam(CHANNELS))
    cbam = import_timm().layers.cbam.CbamModule
    theirs = cbam(CHANNELS, rd_divisor=8, mlp_bias=True).double().eval()
    copy_bottleneck(theirs.channel, ours)
    spatial = theirs.spatial.conv
    with torch.no_grad():  # their batch norm, made the addition of our bias
        spatial.conv.weight.copy_(ours.spatial.weight)
        spatial.bn.weight.fill_((1.0 + spatial.bn.eps) ** 0.5)
        spatial.bn.bias.copy_(ours.spatial.bias)
    after_channels = 2.0 * channels_last(theirs.channel, x)
    expected = 2.0 * channels_last(theirs.spatial, after_channels)
    assert (ours(x) - expected).abs().max() < 1e-12
    assert (after_channels - expected).abs().max() > 0.1  # the spatial gate does something


def slow_reference(gate: Any, x: Tensor, visible: Tensor) -> Tensor:
    """One event on a list of its visible cells; (H, W, C) and (H, W, 1)."""
    sites = visible[..., 0].nonzero().tolist()
    result = torch.zeros_like(x)
    if not sites:
        return result
    values = torch.stack([x[i, j] for i, j in sites])

    def perceptron(pooled: Tensor) -> Tensor:
        layers = gate.bottleneck
        hidden = (layers.reduce.weight @ pooled + layers.reduce.bias).clamp(min=0.0)
        return layers.restore.weight @ hidden + layers.restore.bias

    z = perceptron(values.mean(0))
    if isinstance(gate, Cbam):
        z = z + perceptron(values.max(0).values)
    gated = {(i, j): x[i, j] * 2.0 / (1.0 + torch.exp(-z)) for i, j in sites}
    for (i, j), value in gated.items():
        result[i, j] = value
        if isinstance(gate, Cbam):
            z = gate.spatial.bias[0].clone()
            for (k, m), other in gated.items():
                if abs(k - i) <= 3 and abs(m - j) <= 3:
                    tap = gate.spatial.weight[0, :, k - i + 3, m - j + 3]
                    z = z + tap[0] * other.mean() + tap[1] * other.max()
            result[i, j] = value * 2.0 / (1.0 + torch.exp(-z))
    return result


@pytest.mark.parametrize("kind", GATES)
def test_with_visibility_only_visible_cells_count(kind: Any, x: Tensor, visible: Tensor) -> None:
    gate = randomised(kind(CHANNELS))
    result = gate(x, visible)
    for b in range(3):
        assert (result[b] - slow_reference(gate, x[b], visible[b])).abs().max() < 1e-12
    assert (result - gate(x * visible) * visible).abs().max() > 1e-2  # pools that see zeros


@pytest.mark.parametrize("kind", GATES)
def test_maximum_over_negative_cells_does_not_see_hidden_zeros(kind: Any, visible: Tensor) -> None:
    gate = randomised(kind(CHANNELS))
    x = -torch.ones(3, 9, 8, CHANNELS, dtype=torch.float64)
    expected = slow_reference(gate, x[0], visible[0])
    assert (gate(x, visible)[0] - expected).abs().max() < 1e-12


@pytest.mark.parametrize("kind", GATES)
def test_everything_visible_equals_no_visibility(kind: Any, x: Tensor) -> None:
    gate = randomised(kind(CHANNELS))
    assert torch.allclose(gate(x), gate(x, torch.ones_like(x[..., :1])), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", GATES)
def test_a_new_gate_is_bit_for_bit_the_identity_and_can_learn(kind: Any, x: Tensor) -> None:
    gate = kind(CHANNELS).double()
    assert torch.equal(gate(x), x)
    block = randomised(ConvNeXtBlock(CHANNELS))
    grid = x.permute(0, 3, 1, 2)
    before = block(grid)
    block.gate = gate
    assert torch.equal(block(grid), before)
    gate(x).square().sum().backward()
    assert gate.bottleneck.restore.weight.grad.abs().max() > 0
    assert (randomised(gate)(x) - x).abs().max() > 0.1


@pytest.mark.parametrize("kind", GATES)
def test_events_do_not_see_each_other(kind: Any, x: Tensor, visible: Tensor) -> None:
    gate = randomised(kind(CHANNELS)).train()  # training mode: no batch norm anywhere
    assert torch.allclose(gate(x[:1]), gate(x)[:1], atol=1e-12, rtol=0)
    alone = gate(x[:1], visible[:1])
    assert torch.allclose(alone, gate(x, visible)[:1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", GATES)
def test_hidden_cells_change_nothing_stay_zero_and_have_no_gradient(
    kind: Any, x: Tensor, visible: Tensor
) -> None:
    gate = randomised(kind(CHANNELS))
    x.requires_grad_()
    result = gate(x, visible)
    hidden = (visible == 0).expand_as(x)
    assert (result[hidden] == 0).all()
    assert torch.equal(result, gate(torch.where(hidden, 1e3, x), visible))
    gradient = torch.autograd.grad(result.square().sum(), x)[0]
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] != 0).any()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_traces_with_a_free_batch_size(kind: Any, x: Tensor, visible: Tensor) -> None:
    gate = randomised(kind(CHANNELS))
    traced = torch.jit.trace(gate, (x[:2], visible[:2]))
    more, shown = torch.cat([x, x[:2]]), torch.cat([visible, visible[:2]])
    assert torch.allclose(traced(more, shown), gate(more, shown), atol=1e-12, rtol=0)


def test_hidden_width_is_a_positive_multiple_of_eight() -> None:
    """channels // reduction, as in the specification's sketch, would leave nothing of 8."""
    widths = {1: 8, 8: 8, 64: 8, 128: 8, 192: 16, 256: 16, 1024: 64}
    assert {channels: hidden_width(channels, 16) for channels in widths} == widths
