"""One face of the detector: its sensors to cells, cells to a token, and back to its cells.

A grid face (inner, outer, us, ds) runs ConvNeXt V2 at two resolutions; a hexagonal face (top,
bottom) runs a graph mixer. Both offer the same steps: `encode`, `token`, `decode`, and know how
values at their cells become values at their sensors. With a visibility everything is exactly
sparse, for masked pretraining; without, convolutions are dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.attention import AttentionPool
from xec.models.convnext import Downsample, Upsample, pad_to_multiple
from xec.models.hexgat import HexBlock
from xec.models.stage import GridAttention, Stage


@dataclass(frozen=True, slots=True)
class GridSize:
    """Widths and depths of a grid face.

    Args:
        patch: sensors per cell of the stem, (rows, columns); (1, 1) keeps the sensors' grid.
        channels: features per cell before and after the downsampling.
        blocks: ConvNeXt blocks before and after the downsampling.
        queries: pooling queries.
    """

    patch: tuple[int, int]
    channels: tuple[int, int]
    blocks: tuple[int, int]
    queries: int


class Cells(NamedTuple):
    """Features of a face: fine cells for reading back, coarse ones for the token.

    The visibilities have the cells' shape with one channel; None where everything is seen.
    """

    fine: Tensor  # grid: (B, C, h, w); graph: (B, N, C)
    coarse: Tensor  # grid: (B, C', h', w'); graph: the same as `fine`
    fine_visible: Tensor | None  # grid: (B, 1, h, w); graph: (B, N)
    coarse_visible: Tensor | None


def cell_positions(height: int, width: int) -> Tensor:
    """Coordinates (height * width, 2) of cells, from -1 to 1 along each axis."""
    rows = torch.linspace(-1.0, 1.0, height)
    columns = torch.linspace(-1.0, 1.0, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)


class GridFace(nn.Module):
    """ConvNeXt V2 on a grid of sensors.

    Args:
        shape: rows and columns of the sensor grid.
        size: widths and depths.
        features: features F per sensor.
        width: token width D.
        drop_path: stochastic depth rate of the last block; rising linearly from 0.
        attention: attention among the blocks.
        select: cells of the flattened sensor grid that are sensors, in their order; all if None.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        size: GridSize,
        features: int,
        width: int,
        drop_path: float,
        attention: GridAttention,
        select: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.patch = shape, size.patch
        fine, coarse = size.channels
        rates = torch.linspace(0.0, drop_path, sum(size.blocks)).tolist()
        h, w = -(-shape[0] // size.patch[0]), -(-shape[1] // size.patch[1])
        first, last = size.blocks
        self.stem = _stem(features, fine, size.patch)
        self.fine = Stage(fine, rates[:first], attention.among(first, last_stage=False))
        self.down = Downsample(fine, coarse)
        self.coarse = Stage(coarse, rates[first:], attention.among(last, last_stage=True))
        self.pool = AttentionPool(
            coarse, size.queries, width, cell_positions(-(-h // 2), -(-w // 2))
        )
        self.up = Upsample(coarse, fine)
        self.context = nn.Linear(width, fine)
        self.register_buffer("select", select, persistent=False)
        self.select: Tensor | None
        self.channels = fine
        self.sensors = size.patch[0] * size.patch[1]

    def encode(self, features: Tensor, visible: Tensor | None = None) -> Cells:
        """Sensor features (B, F, H, W) to cells; `visible` (B, 1, H, W) for sparse pretraining."""
        x, fine_visible = self._stem(features, visible)
        x = self.fine(x, fine_visible)
        y, coarse_visible = self.down(x, fine_visible)
        return Cells(x, self.coarse(y, coarse_visible), fine_visible, coarse_visible)

    def _stem(self, features: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if visible is None:
            return self.stem(pad_to_multiple(features, *self.patch)), None
        x = self.stem(pad_to_multiple(features * visible, *self.patch))
        v = functional.max_pool2d(pad_to_multiple(visible, *self.patch), self.patch)
        return x * v, v

    def token(self, cells: Cells) -> Tensor:
        """The face's token (B, D)."""
        seen = cells.coarse_visible
        visible = None if seen is None else seen.flatten(1)
        token: Tensor = self.pool(cells.coarse.flatten(2).transpose(1, 2), visible)
        return token

    def decode(self, cells: Cells, token: Tensor) -> Tensor:
        """Features (B, h, w, C) of the fine cells, with what coarse cells and the token know."""
        h, w = cells.fine.shape[-2:]
        context: Tensor = self.context(token)
        x: Tensor = cells.fine + self.up(cells.coarse, h, w) + context[:, :, None, None]
        return x.permute(0, 2, 3, 1)

    def to_cells(self, x: Tensor) -> Tensor:
        """Sensors (B, V, H, W) to (B, h, w, V * rows * columns), a patch per cell."""
        rows, columns = self.patch
        x = pad_to_multiple(x, rows, columns)
        B, V, H, W = x.shape
        x = x.reshape(B, V, H // rows, rows, W // columns, columns)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3)

    def to_sensors(self, x: Tensor) -> Tensor:
        """The inverse: (B, h, w, V * rows * columns) to (B, V, N)."""
        B, h, w, _ = x.shape
        rows, columns = self.patch
        x = x.reshape(B, h, w, -1, rows, columns).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(B, -1, h * rows, w * columns)[:, :, : self.shape[0], : self.shape[1]]
        x = x.flatten(2)
        return x if self.select is None else x.index_select(2, self.select)


def _stem(features: int, channels: int, patch: tuple[int, int]) -> nn.Conv2d:
    if patch == (1, 1):
        return nn.Conv2d(features, channels, 3, padding=1)
    return nn.Conv2d(features, channels, patch, stride=patch)


@dataclass(frozen=True, slots=True)
class GraphSize:
    """Width and depth of a hexagonal face; `heads` are those of the attention mixer."""

    channels: int
    blocks: int
    heads: int
    queries: int


class HexFace(nn.Module):
    """A graph network on the 73 PMTs of the top or bottom face.

    Args:
        position: (73, 2) coordinates in the plane, of order one.
        size: width and depth.
        features: features F per sensor.
        width: token width D.
        drop_path: stochastic depth rate of the last block; rising linearly from 0.
        mixer: makes the graph mixer of a block.
    """

    def __init__(
        self,
        position: Tensor,
        size: GraphSize,
        features: int,
        width: int,
        drop_path: float,
        mixer: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        rates = torch.linspace(0.0, drop_path, size.blocks).tolist()
        self.stem = nn.Linear(features, size.channels)
        self.blocks = nn.ModuleList(HexBlock(size.channels, mixer(), rate) for rate in rates)
        self.pool = AttentionPool(size.channels, size.queries, width, position)
        self.context = nn.Linear(width, size.channels)
        self.channels = size.channels
        self.sensors = 1

    def encode(self, features: Tensor, visible: Tensor | None = None) -> Cells:
        """Sensor features (B, F, 73) to nodes; `visible` is (B, 73)."""
        x = self.stem(features.transpose(1, 2))  # (B, N, C)
        if visible is not None:
            x = x * visible.unsqueeze(-1)
        for block in self.blocks:
            x = block(x, visible)
        return Cells(x, x, visible, visible)

    def token(self, cells: Cells) -> Tensor:
        """The face's token (B, D)."""
        token: Tensor = self.pool(cells.coarse, cells.coarse_visible)
        return token

    def decode(self, cells: Cells, token: Tensor) -> Tensor:
        """Features (B, N, C) of the nodes, with what the token knows."""
        context: Tensor = self.context(token)
        return cells.fine + context.unsqueeze(1)

    def to_cells(self, x: Tensor) -> Tensor:
        """Sensors (B, V, N) to nodes (B, N, V)."""
        return x.transpose(1, 2)

    def to_sensors(self, x: Tensor) -> Tensor:
        """The inverse: (B, N, V) to (B, V, N)."""
        return x.transpose(1, 2)
