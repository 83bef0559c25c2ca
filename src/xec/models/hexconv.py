"""Depthwise convolution on the hexagonal faces: one weight per channel and direction.

What `nn.Conv2d(groups=C)` is to a grid: a node sums itself and its up to six neighbours with
weights that depend on the direction only. The direction comes from the offset of each edge and
not from the rows' parity, a rule that fails on these faces (FACTS 1).
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

SECTORS: Final = 6
TAPS: Final = SECTORS + 1  # the six neighbours in order of angle, then the node itself


def sectors(offsets: Tensor) -> Tensor:
    """Which of six 60 degree sectors, centred on 0, 60, ... degrees, offsets point into.

    Neighbours of the hexagonal faces stand at 0, 66, 114, 180, ... degrees: at most 6 degrees
    from a centre, at least 24 from a border.

    Args:
        offsets: (E, 2) along z and across the rows, in one unit.

    Returns:
        (E,) sectors: 0 along z, 1 and 2 in the next row, 3 against z, 4 and 5 in the previous row.
    """
    angle = torch.atan2(offsets[:, 1], offsets[:, 0])
    return torch.round(angle / (math.pi / 3.0)).long() % SECTORS


class HexDepthwise(nn.Module):
    """Fixed weights per channel and direction, as a table of constant width.

    Args:
        channels: channels C.
        edges: (2, E) source and target nodes.
        edge_features: (E, G), of which the first two say how the target lies from the source:
            along z and across the rows, both in the same unit.
        nodes: number of nodes N.

    Raises:
        ValueError: when a node has two neighbours in one direction.
    """

    def __init__(self, channels: int, edges: Tensor, edge_features: Tensor, nodes: int) -> None:
        super().__init__()
        table, used = _directed_table(edges, edge_features, nodes)
        self.register_buffer("table", table, persistent=False)  # (N, TAPS)
        self.register_buffer("used", used.unsqueeze(-1), persistent=False)  # (N, TAPS, 1)
        self.table: Tensor
        self.used: Tensor
        bound = TAPS**-0.5  # as nn.Conv2d with seven inputs
        self.weight = nn.Parameter(torch.empty(TAPS, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, N, C) to the same shape; nodes hidden by `visible` (B, N) stay zero."""
        shown = None if visible is None else visible.unsqueeze(-1)
        x = x if shown is None else x * shown
        B, N, C = x.shape
        patch = x.index_select(1, self.table.reshape(-1)).reshape(B, N, TAPS, C)
        y = (patch * (self.weight * self.used)).sum(2) + self.bias
        return y if shown is None else y * shown


def _directed_table(edges: Tensor, features: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """For each node, its neighbour per sector and itself, (N, TAPS); and which of them exist."""
    table = torch.arange(nodes).repeat(TAPS, 1).T.contiguous()
    used = torch.zeros(nodes, TAPS, dtype=torch.bool)
    used[:, SECTORS] = True
    # The features say where the target lies; seen from the target, the source is opposite.
    directions = sectors(-features[:, :2]).tolist()
    for (source, target), direction in zip(edges.T.tolist(), directions, strict=True):
        if used[target, direction]:
            raise ValueError(f"node {target} has two neighbours in direction {direction}")
        table[target, direction] = source
        used[target, direction] = True
    return table, used
