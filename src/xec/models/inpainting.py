"""What a network says at the masked sensors of each event, gathered without a loop over events.

Events have different numbers K_b of masked sensors, so the answer is padded to K, the largest of
them. Source: the specification, "Vectorized Tensor Operations"; one `nonzero` for the whole batch,
and a cumulative sum that turns its global order into places within each event. For training: the
shape of the answer depends on the data, so it does not export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xec.contract import SENSOR_ESTIMATES
from xec.detector.channels import DS_GRID, FACE_IDS, INNER_GRID, US_GRID, Face

GRIDS: Final[Mapping[Face, NDArray[np.int64]]] = {
    Face.INNER: INNER_GRID,
    Face.US: US_GRID,
    Face.DS: DS_GRID,
}
"""Faces whose sensors have a row and a column each; the others are told by their node."""


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


def gather_faces(values: Tensor, masked: Tensor) -> dict[Face, Gathered]:
    """Values (B, V, 4760) where `masked` (B, 4760) is true, face by face.

    The index is row and column on inner, us and ds, and the place in `FACE_IDS` on the others.
    """
    found = {}
    for face in Face:
        ids = torch.from_numpy(GRIDS.get(face, FACE_IDS[face]).copy()).to(values.device)
        if face in GRIDS:
            found[face] = gather_grid(values[:, :, ids], masked[:, ids])
        else:
            found[face] = gather_graph(values[:, :, ids], masked[:, ids])
    return found


def inpainted(outputs: Mapping[str, Tensor], masked: Tensor) -> dict[Face, Gathered]:
    """The contract's sensor outputs at the masked sensors: npho, its sigma, time, its sigma.

    Args:
        outputs: of a `Reconstructor`, by name, (B, 4760) each.
        masked: (B, 4760) bool.
    """
    names = [name for e in SENSOR_ESTIMATES for name in (e.mean_name, e.sigma_name)]
    return gather_faces(torch.stack([outputs[name] for name in names], dim=1), masked)
