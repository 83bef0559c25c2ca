"""The encoder: what masked pretraining trains and every later stage starts from.

Front-end, the faces' networks and the Transformer between them. With a visibility it is exactly
sparse (masked autoencoder); without, convolutions are dense (inpainting, regression, export).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from xec.models.face_group import FaceGroup
from xec.models.faces import Cells
from xec.models.frontend import FrontEnd, Readings
from xec.models.fusion import Fusion
from xec.models.precision import at_least_float32, full_precision


class Encoded(NamedTuple):
    """What the encoder knows about B events, in float32 or better."""

    readings: Readings
    cells: list[Cells]  # per group
    features: list[Tensor]  # per group, (G * B, ..., C) at the fine cells
    tokens: Tensor  # (B, T, D), fused, in the order of the groups' faces


class Encoder(nn.Module):
    """Raw readings to features of every cell and one token per face.

    Args:
        front_end: raw readings to features.
        groups: the six faces, in groups that share a network.
        fusion: Transformer over the tokens, in the order of the groups' faces.
    """

    def __init__(self, front_end: FrontEnd, groups: Sequence[FaceGroup], fusion: Fusion) -> None:
        super().__init__()
        self.front_end = front_end
        self.groups = nn.ModuleList(groups)
        self.fusion = fusion

    @property
    def face_groups(self) -> list[FaceGroup]:
        """The groups, typed."""
        return cast("list[FaceGroup]", list(self.groups))

    def forward(
        self,
        npho: Tensor,
        time: Tensor,
        npho_valid: Tensor,
        time_valid: Tensor,
        visible: Tensor | None = None,
    ) -> Encoded:
        """The contract's inputs (B, 4760), and a visibility (B, 4760) for sparse pretraining."""
        with full_precision(npho):
            readings = self.front_end(npho, time, npho_valid, time_valid)
        groups = self.face_groups
        cells = [group.encode(readings.features, visible) for group in groups]
        tokens = [group.tokens(c) for group, c in zip(groups, cells, strict=True)]
        fused = self.fusion(torch.cat(tokens, dim=1))
        shares = torch.split(fused, [t.shape[1] for t in tokens], dim=1)
        features = [g.decode(c, t) for g, c, t in zip(groups, cells, shares, strict=True)]
        features = [at_least_float32(x) for x in features]
        return Encoded(readings, cells, features, at_least_float32(fused))
