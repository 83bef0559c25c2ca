"""The network with its encoder in half precision, for GPUs; whatever has units stays in float32.

The faces' networks and the Transformer are nearly all of the arithmetic and see features of order
one. Front-end, light fit, heads and physical units see photons and centimetres: half precision ends
at 65504 and has three digits. It is where training under autocast draws the line, too.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from xec.models.encoder import Encoded, Encoder
from xec.models.precision import at_least_float32
from xec.models.reconstructor import Reconstructor


class HalfEncoder(Encoder):
    """An encoder whose front-end is in float32 and the rest in float16; not for pretraining."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder.front_end, encoder.face_groups, encoder.fusion)
        self.groups.half()
        self.fusion.half()

    def forward(
        self,
        npho: Tensor,
        time: Tensor,
        npho_valid: Tensor,
        time_valid: Tensor,
        visible: Tensor | None = None,
    ) -> Encoded:
        """As `Encoder.forward`; everything is visible."""
        if visible is not None:
            raise ValueError("an exported encoder has no visibility")
        readings = self.front_end(npho, time, npho_valid, time_valid)
        half = readings.features.half()
        groups = self.face_groups
        cells = [group.encode(half) for group in groups]
        tokens = [group.tokens(c) for group, c in zip(groups, cells, strict=True)]
        fused = self.fusion(torch.cat(tokens, dim=1))
        shares = torch.split(fused, [t.shape[1] for t in tokens], dim=1)
        features = [g.decode(c, t) for g, c, t in zip(groups, cells, shares, strict=True)]
        return Encoded(
            readings, cells, [at_least_float32(x) for x in features], at_least_float32(fused)
        )


def half_encoder(model: Reconstructor) -> Reconstructor:
    """A copy of a network, plain or fused, with its encoders in half precision."""
    copied = copy.deepcopy(model).eval()
    copied.encoder = HalfEncoder(copied.encoder)
    if copied.spread_encoder is not None:
        copied.spread_encoder = HalfEncoder(copied.spread_encoder)
    return copied
