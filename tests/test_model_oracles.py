"""Our ConvNeXt V2 layers and timm's, with the same weights, give the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support_timm import import_timm
from xec.models.convnext import ConvNeXtBlock, GlobalResponseNorm

CHANNELS = 6


@pytest.fixture(scope="module")
def timm() -> Any:
    return import_timm()


def randomised(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.eval()


def cells(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def copy(theirs: nn.Module, ours: nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())


def copied_grn(timm: Any, ours: GlobalResponseNorm) -> Any:
    theirs = timm.layers.grn.GlobalResponseNorm(len(ours.gamma)).double()
    theirs.load_state_dict({"weight": ours.gamma, "bias": ours.beta})
    return theirs


def copied_block(timm: Any, ours: ConvNeXtBlock) -> Any:
    theirs = timm.models.convnext.ConvNeXtBlock(
        CHANNELS, use_grn=True, ls_init_value=None, conv_mlp=False
    ).double()
    copy(theirs.conv_dw, ours.depthwise)
    copy(theirs.norm, ours.norm)
    copy(theirs.mlp.fc1, ours.expand)
    theirs.mlp.grn = copied_grn(timm, ours.grn)
    copy(theirs.mlp.fc2, ours.project)
    return theirs.eval()


def test_grn_is_that_of_timm(timm: Any) -> None:
    ours = randomised(GlobalResponseNorm(CHANNELS))
    x = cells(3, 9, 7, CHANNELS)
    assert (ours(x) - copied_grn(timm, ours)(x)).abs().max() < 1e-12


def test_block_is_that_of_timm(timm: Any) -> None:
    ours = randomised(ConvNeXtBlock(CHANNELS))
    theirs = copied_block(timm, ours)
    x = cells(3, CHANNELS, 11, 9)
    assert (ours(x) - theirs(x)).abs().max() < 1e-12


def test_gradients_of_the_block_are_those_of_timm(timm: Any) -> None:
    ours = randomised(ConvNeXtBlock(CHANNELS))
    theirs = copied_block(timm, ours)
    x = cells(3, CHANNELS, 11, 9).requires_grad_()
    mine, other = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (ours, theirs))
    assert (mine - other).abs().max() < 1e-11 * other.abs().max()


def test_a_block_without_grn_is_another_one(timm: Any) -> None:
    """Negative control: the comparison sees what ConvNeXt V2 added to V1."""
    ours = randomised(ConvNeXtBlock(CHANNELS))
    theirs = copied_block(timm, ours)
    theirs.mlp.grn = nn.Identity()
    x = cells(3, CHANNELS, 11, 9)
    assert (ours(x) - theirs(x)).abs().max() > 1e-2
