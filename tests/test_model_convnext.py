"""ConvNeXt V2 blocks: exact sparse convolution with visibility, plain dense without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.convnext import (
    ConvNeXtBlock,
    Downsample,
    DropPath,
    GlobalResponseNorm,
    Upsample,
    pad_to_multiple,
)

Site = tuple[int, int]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights everywhere, biases and GRN included, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def random_case(shape: tuple[int, int, int, int], hidden: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    visible = torch.rand(shape[0], 1, *shape[2:], generator=generator) > hidden
    return x, visible.double()


def sparse_block(block: ConvNeXtBlock, sites: dict[Site, Tensor]) -> dict[Site, Tensor]:
    """The same block on a dictionary of visible sites: a slow, independent reference."""
    kernel = block.depthwise.weight[:, 0]  # (C, 7, 7)
    wide = {}
    for row, column in sites:
        y = block.depthwise.bias.clone()
        for i in range(7):
            for j in range(7):
                neighbour = sites.get((row + i - 3, column + j - 3))
                if neighbour is not None:
                    y = y + kernel[:, i, j] * neighbour
        wide[row, column] = functional.gelu(block.expand(block.norm(y)))
    norm = torch.stack(list(wide.values())).square().sum(0).sqrt()
    relative = norm / (norm.mean() + 1e-6)
    grn = block.grn
    return {
        site: sites[site] + block.project(grn.gamma * (y * relative) + grn.beta + y)
        for site, y in wide.items()
    }


def as_sites(x: Tensor, visible: Tensor) -> dict[Site, Tensor]:
    rows, columns = visible[0].nonzero(as_tuple=True)
    return {(int(r), int(c)): x[:, r, c] for r, c in zip(rows, columns, strict=True)}


@pytest.mark.parametrize("hidden", [0.0, 0.3, 0.6, 0.95])
def test_block_with_visibility_is_sparse_convolution(hidden: float) -> None:
    block = randomised(ConvNeXtBlock(5))
    x, visible = random_case((2, 5, 11, 9), hidden)
    result = block(x, visible)
    for b in range(2):
        expected = sparse_block(block, as_sites(x[b], visible[b]))
        assert len(expected) == int(visible[b].sum())
        for (row, column), value in expected.items():
            assert (result[b, :, row, column] - value).abs().max() < 1e-12


def test_hidden_cells_stay_exactly_zero_and_have_no_gradient() -> None:
    block = randomised(ConvNeXtBlock(5))
    x, visible = random_case((2, 5, 11, 9), 0.6)
    x.requires_grad_()
    result = block(x, visible)
    hidden = (visible == 0).expand_as(x)
    assert (result[hidden] == 0).all()
    result.square().sum().backward()
    assert x.grad is not None
    assert (x.grad[hidden] == 0).all()
    assert (x.grad[~hidden] != 0).any()


def test_masking_only_after_the_depthwise_convolution_is_not_sparse() -> None:
    """Negative control: the specification's recipe leaks through biases into the GRN."""
    block = randomised(ConvNeXtBlock(5))
    x, visible = random_case((1, 5, 11, 9), 0.6)
    y = (block.depthwise(x * visible) * visible).permute(0, 2, 3, 1)
    y = block.project(block.grn(functional.gelu(block.expand(block.norm(y)))))
    recipe = x * visible + y.permute(0, 3, 1, 2)
    site, expected = next(iter(sparse_block(block, as_sites(x[0], visible[0])).items()))
    assert (recipe[0, :, site[0], site[1]] - expected).abs().max() > 1e-3


def test_dense_block_equals_the_block_with_everything_visible() -> None:
    block = randomised(ConvNeXtBlock(5))
    x, _ = random_case((2, 5, 11, 9), 0.0)
    dense = block(x)
    assert torch.equal(dense, block(x, torch.ones(2, 1, 11, 9, dtype=torch.float64)))


def test_grn_is_per_sample() -> None:
    norm = randomised(GlobalResponseNorm(6))
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    assert torch.equal(norm(x)[:1], norm(x[:1]))


def test_grn_follows_its_equation() -> None:
    norm = randomised(GlobalResponseNorm(6))
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    size = torch.sqrt((x**2).sum((1, 2)))
    relative = (size / (size.mean(1, keepdim=True) + 1e-6))[:, None, None]
    assert torch.allclose(norm(x), norm.gamma * x * relative + norm.beta + x, atol=1e-12)


def test_grn_of_a_bright_face_stays_finite_in_half_precision() -> None:
    norm = GlobalResponseNorm(4)
    nn.init.ones_(norm.gamma)
    x = torch.full((1, 93, 44, 4), 5.0)
    assert torch.isfinite(norm.half()(x.half())).all()
    assert torch.isinf((x.half() ** 2).sum((1, 2))).all()  # what would overflow


def test_grn_in_the_weights_of_the_projection_is_grn_before_it() -> None:
    norm, linear = randomised(GlobalResponseNorm(6)), randomised(nn.Linear(6, 3), 1)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    found = norm.projected(x.flatten(1, 2), linear).reshape(2, 4, 5, 3)
    assert (found - linear(norm(x))).abs().max() < 1e-12
    assert (found - linear(x)).abs().max() > 1e-2  # control: without the norm it is another thing


def test_grn_of_a_face_with_nothing_visible_has_a_finite_gradient() -> None:
    norm, linear = randomised(GlobalResponseNorm(6)), randomised(nn.Linear(6, 3), 1)
    x = torch.zeros(1, 20, 6, dtype=torch.float64, requires_grad=True)
    norm.projected(x, linear).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    for parameter in (*norm.parameters(), *linear.parameters()):
        assert torch.isfinite(parameter.grad).all()


def test_downsampling_keeps_a_cell_that_has_any_visible_input() -> None:
    layer = randomised(Downsample(3, 4))
    x, visible = random_case((1, 3, 7, 6), 0.6)
    result, coarse = layer(x, visible)
    assert result.shape == (1, 4, 4, 3)
    assert coarse is not None
    for row in range(4):
        for column in range(3):
            block = visible[0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert coarse[0, 0, row, column] == block.max()


def test_downsampling_equals_a_strided_sum_over_visible_sites() -> None:
    layer = randomised(Downsample(3, 4))
    x, visible = random_case((1, 3, 7, 6), 0.6)
    result, _ = layer(x, visible)
    sites = as_sites(x[0], visible[0])
    for row in range(4):
        for column in range(3):
            total, seen = layer.reduce.bias.clone(), False
            for i in range(2):
                for j in range(2):
                    site = sites.get((2 * row + i, 2 * column + j))
                    if site is not None:
                        total, seen = (
                            total + layer.reduce.weight[:, :, i, j] @ layer.norm(site),
                            True,
                        )
            expected = total if seen else torch.zeros_like(total)
            assert (result[0, :, row, column] - expected).abs().max() < 1e-12


def test_upsampling_restores_the_size_that_padding_had_changed() -> None:
    x = torch.randn(2, 6, 47, 22)
    layer = Upsample(6, 5)
    assert layer(x, 93, 44).shape == (2, 5, 93, 44)


def test_padding_adds_zeros_at_the_far_edges_only() -> None:
    x = torch.ones(1, 1, 93, 44)
    padded = pad_to_multiple(x, 2, 2)
    assert padded.shape == (1, 1, 94, 44)
    assert torch.equal(padded[:, :, :93], x)
    assert (padded[:, :, 93] == 0).all()
    assert pad_to_multiple(x, 1, 4) is x


def test_drop_path_keeps_the_expectation_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(20_000, 3)
    dropped = layer(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (dropped == dropped[:, :1]).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=5 * (1 / 3 / 20_000) ** 0.5)
    assert layer.eval()(x) is x
