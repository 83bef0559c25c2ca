"""Non-local block: explicit sums, fused attention, identity at first, visibility."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.nonlocal_attention import NonLocal

CHANNELS, HEIGHT, WIDTH = 6, 7, 5  # neither side is a multiple of two


def randomised(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.eval()


@pytest.fixture
def block() -> Any:
    return randomised(NonLocal(CHANNELS))


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, CHANNELS, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)


@pytest.fixture
def visible() -> Tensor:
    """Two events in which whole blocks are hidden, and one with nothing visible."""
    shown = torch.rand(3, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4)) > 0.7
    shown[2] = False
    return shown.double()


def block_means(x: Tensor, visible: Tensor, size: int) -> list[Tensor]:
    """Means (C,) of the blocks of one event that have visible cells."""
    means = []
    for i in range(0, HEIGHT, size):
        for j in range(0, WIDTH, size):
            shown = visible[0, i : i + size, j : j + size] > 0
            if shown.any():
                means.append(x[:, i : i + size, j : j + size][:, shown].mean(1))
    return means


def slow_reference(block: Any, x: Tensor, visible: Tensor, size: int) -> Tensor:
    """Eq. 1 of arXiv:1711.07971 as written, cell by cell, for one event (C, H, W)."""
    keys = block_means(x, visible, size)
    result = x * visible
    for i, j in visible[0].nonzero().tolist():
        query = block.query(x[:, i, j])
        f = [torch.exp(query @ block.key(k) / query.numel() ** 0.5) for k in keys]
        y = sum(f_j * block.value(k) for f_j, k in zip(f, keys, strict=True)) / sum(f)
        result[:, i, j] += block.out(y)
    return result


@pytest.mark.parametrize("size", [1, 2, 3])
def test_equals_the_paper_s_sum_over_visible_blocks(size: int, x: Tensor, visible: Tensor) -> None:
    block = randomised(NonLocal(CHANNELS, size))
    everything = torch.ones_like(visible)
    dense, sparse = block(x), block(x, visible)
    for b in range(3):
        assert (dense[b] - slow_reference(block, x[b], everything[b], size)).abs().max() < 1e-12
        assert (sparse[b] - slow_reference(block, x[b], visible[b], size)).abs().max() < 1e-12
    hidden_blocks = [4 * 3 - len(block_means(x[b], visible[b], 2)) for b in range(3)]
    assert hidden_blocks[0] > 0  # the case has blocks that must not take part
    assert hidden_blocks[2] == 12


def test_equals_fused_attention_without_subsampling(x: Tensor) -> None:
    block = randomised(NonLocal(CHANNELS, 1))
    cells = x.flatten(2).transpose(1, 2)
    fused = functional.scaled_dot_product_attention(
        block.query(cells), block.key(cells), block.value(cells)
    )
    expected = cells + block.out(fused)
    assert (block(x).flatten(2).transpose(1, 2) - expected).abs().max() < 1e-12


def test_padding_is_no_cell(block: Any, x: Tensor) -> None:
    """Negative control: keys that average the padding's zeros in are others."""
    padded = functional.pad(x, (0, 1, 0, 1))
    careless = block(padded)[:, :, :HEIGHT, :WIDTH]
    assert (block(x) - careless).abs().max() > 1e-3


def test_a_new_block_is_the_identity_and_can_learn(x: Tensor, visible: Tensor) -> None:
    block = NonLocal(CHANNELS).double()
    assert torch.equal(block(x), x)
    assert torch.equal(block(x, visible), x * visible)
    block(x).square().sum().backward()
    assert block.out.weight.grad is not None
    assert block.out.weight.grad.abs().max() > 0


def test_a_cell_sees_the_whole_face(block: Any, x: Tensor) -> None:
    x.requires_grad_()
    corner = block(x)[0, :, 0, 0].sum()
    gradient = torch.autograd.grad(corner, x)[0]
    assert (gradient[0].abs().sum(0) > 0).all()
    assert (gradient[1:] == 0).all()


def test_events_do_not_see_each_other(block: Any, x: Tensor, visible: Tensor) -> None:
    assert torch.allclose(block(x[:1]), block(x)[:1], atol=1e-12, rtol=0)
    alone = block(x[:1], visible[:1])
    assert torch.allclose(alone, block(x, visible)[:1], atol=1e-12, rtol=0)


def test_hidden_cells_change_nothing_stay_zero_and_have_no_gradient(
    block: Any, x: Tensor, visible: Tensor
) -> None:
    x.requires_grad_()
    result = block(x, visible)
    hidden = (visible == 0).expand_as(x)
    assert (result[hidden] == 0).all()
    assert torch.equal(result, block(torch.where(hidden, 1e3, x), visible))
    gradient = torch.autograd.grad(result.square().sum(), x)[0]
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] != 0).any()
    assert torch.isfinite(gradient).all()


def test_one_channel_is_enough() -> None:
    assert NonLocal(1).query.out_features == 1


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
# Whether a face needs padding is a question about its constant size, not about data.
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
def test_traces_with_a_free_batch_size(block: Any, x: Tensor, visible: Tensor) -> None:
    traced = torch.jit.trace(block, (x[:2], visible[:2]))
    more, shown = torch.cat([x, x[:2]]), torch.cat([visible, visible[:2]])
    assert torch.allclose(traced(more, shown), block(more, shown), atol=1e-12, rtol=0)
