"""What a network says at the masked sensors of each event, gathered without a loop over events.

Events have different numbers K_b of masked sensors, so the answer is padded to K, the largest of
them. Source: the specification, "Vectorized Tensor Operations"; one `nonzero` for the whole batch,
and a cumulative sum that turns its global order into places within each event. For training: the
shape of the answer depends on the data, so it does not export.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """Values at the masked sensors, in the order of the sensors; zeros behind the last one."""

    values: Tensor  # (B, K, V)
    index: Tensor  # (B, K, 2) row and column on a grid, (B, K) node on a graph
    valid: Tensor  # (B, K) bool, false behind the last masked sensor of an event


def gather_grid(values: Tensor, masked: Tensor) -> Gathered:
    """Values (B, V, H, W) where `masked` (B, H, W) is true, row by row."""
    gathered = gather_graph(values.flatten(2), masked.flatten(1))
    width = masked.shape[2]
    place = torch.stack([gathered.index // width, gathered.index % width], dim=2)
    return replace(gathered, index=place)


def gather_graph(values: Tensor, masked: Tensor) -> Gathered:
    """Values (B, V, N) where `masked` (B, N) is true, in the order of the nodes."""
    B, V, _ = values.shape
    event, node = masked.nonzero(as_tuple=True)
    count = masked.sum(dim=1)  # (B,)
    K = max(count.tolist(), default=0)
    # From the batch's order to each event's own row of K places.
    shift = torch.arange(B, device=node.device) * K - (count.cumsum(0) - count)
    place = torch.arange(len(node), device=node.device) + shift[event]
    index = node.new_zeros(B * K).index_copy_(0, place, node).reshape(B, K)
    valid = torch.arange(K, device=node.device) < count.unsqueeze(1)
    found = values.gather(2, index.unsqueeze(1).expand(B, V, K))  # (B, V, K)
    found = found.masked_fill(~valid.unsqueeze(1), 0.0)
    return Gathered(found.transpose(1, 2), index, valid)
