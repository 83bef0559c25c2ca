"""A run of ConvNeXt V2 blocks at one resolution, with attention where it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor, nn

from xec.models.channel_attention import Cbam, SqueezeExcite
from xec.models.convnext import ConvNeXtBlock
from xec.models.nonlocal_attention import NonLocal

AttentionKind = Literal["none", "se", "cbam", "nonlocal"]
Placement = Literal["none", "last", "every"]


@dataclass(frozen=True, slots=True)
class GridAttention:
    """Attention inside a grid face: which, and after which ConvNeXt blocks.

    Args:
        kind: SE and CBAM gate the branch of a block; non-local attention is a residual of its own.
        placement: none, the last block of the face, or every block.
    """

    kind: AttentionKind = "none"
    placement: Placement = "last"

    def among(self, blocks: int, last_stage: bool) -> list[AttentionKind]:
        """What each of the blocks of a stage gets."""
        if self.placement == "every":
            return [self.kind] * blocks
        kinds: list[AttentionKind] = ["none"] * blocks
        if self.placement == "last" and last_stage and blocks:
            kinds[-1] = self.kind
        return kinds


NO_ATTENTION: Final = GridAttention()


def _gate(kind: AttentionKind, channels: int) -> nn.Module | None:
    if kind == "se":
        return SqueezeExcite(channels)
    return Cbam(channels) if kind == "cbam" else None


class Stage(nn.Module):
    """ConvNeXt V2 blocks, one after the other.

    The parameters of a block have the same names with and without attention, so that attention
    can be inserted into a pretrained encoder.

    Args:
        channels: width C of all blocks.
        drop_paths: rate of stochastic depth of each block.
        attention: what each block gets.
    """

    def __init__(
        self, channels: int, drop_paths: list[float], attention: list[AttentionKind]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(channels, rate, _gate(kind, channels))
            for rate, kind in zip(drop_paths, attention, strict=True)
        )
        self.mixers = nn.ModuleDict(
            {str(i): NonLocal(channels) for i, kind in enumerate(attention) if kind == "nonlocal"}
        )

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; `visible` is (B, 1, H, W)."""
        for index, block in enumerate(self.blocks):
            x = block(x, visible)
            if str(index) in self.mixers:
                x = self.mixers[str(index)](x, visible)
        return x
