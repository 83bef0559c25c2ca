"""One face of the detector: its sensors to cells, cells to a token, and back to its sensors.

A grid face (inner, outer, us, ds) runs ConvNeXt V2 at two resolutions; a hexagonal face (top,
bottom) runs graph attention. Both offer the same three steps: `encode`, `token`, `read`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.attention import AttentionPool
from xec.models.convnext import ConvNeXtBlock, Downsample, Upsample, pad_to_multiple
from xec.models.heads import HINTS, SensorHead
from xec.models.hexgat import HexBlock


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
    """Features of a face: fine cells for reading back, coarse ones for the token."""

    fine: Tensor  # grid: (B, C, h, w); graph: (B, N, C)
    coarse: Tensor  # grid: (B, C', h', w'); graph: the same as `fine`


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
        select: cells of the flattened sensor grid that are sensors, in their order; all if None.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        size: GridSize,
        features: int,
        width: int,
        drop_path: float,
        select: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.patch = shape, size.patch
        fine, coarse = size.channels
        rates = torch.linspace(0.0, drop_path, sum(size.blocks)).tolist()
        h, w = -(-shape[0] // size.patch[0]), -(-shape[1] // size.patch[1])
        self.stem = _stem(features, fine, size.patch)
        self.fine = nn.ModuleList(ConvNeXtBlock(fine, r) for r in rates[: size.blocks[0]])
        self.down = Downsample(fine, coarse)
        self.coarse = nn.ModuleList(ConvNeXtBlock(coarse, r) for r in rates[size.blocks[0] :])
        self.pool = AttentionPool(
            coarse, size.queries, width, cell_positions(-(-h // 2), -(-w // 2))
        )
        self.up = Upsample(coarse, fine)
        self.context = nn.Linear(width, fine)
        self.head = SensorHead(fine, size.patch[0] * size.patch[1], HINTS)
        self.register_buffer("select", select, persistent=False)
        self.select: Tensor | None

    def encode(self, features: Tensor, visible: Tensor | None = None) -> Cells:
        """Sensor features (B, F, H, W) to cells; `visible` (B, 1, H, W) for sparse pretraining."""
        x, v = self._stem(features, visible)
        for block in self.fine:
            x = block(x, v)
        y, v = self.down(x, v)
        for block in self.coarse:
            y = block(y, v)
        return Cells(x, y)

    def _stem(self, features: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if visible is None:
            return self.stem(pad_to_multiple(features, *self.patch)), None
        x = self.stem(pad_to_multiple(features * visible, *self.patch))
        v = functional.max_pool2d(pad_to_multiple(visible, *self.patch), self.patch)
        return x * v, v

    def token(self, cells: Cells) -> Tensor:
        """The face's token (B, D)."""
        return self.pool(cells.coarse.flatten(2).transpose(1, 2))  # type: ignore[no-any-return]

    def read(self, cells: Cells, token: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """Means (B, MEANS, N) and log sigmas (B, SPREADS, N) of the face's sensors.

        `hints` (B, HINTS, H, W) are guesses at the sensors.
        """
        h, w = cells.fine.shape[-2:]
        x = cells.fine + self.up(cells.coarse, h, w) + self.context(token)[:, :, None, None]
        mean, log_sigma = self.head(x.permute(0, 2, 3, 1), self._to_cells(hints))
        return self._to_sensors(mean), self._to_sensors(log_sigma)

    def _to_cells(self, x: Tensor) -> Tensor:
        """Sensors (B, V, H, W) to (B, h, w, V * rows * columns), a patch per cell."""
        rows, columns = self.patch
        x = pad_to_multiple(x, rows, columns)
        B, V, H, W = x.shape
        x = x.reshape(B, V, H // rows, rows, W // columns, columns)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3)

    def _to_sensors(self, x: Tensor) -> Tensor:
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
    """Width and depth of a hexagonal face."""

    channels: int
    blocks: int
    heads: int
    queries: int


class HexFace(nn.Module):
    """Graph attention on the 73 PMTs of the top or bottom face.

    Args:
        position: (73, 2) coordinates in the plane, of order one.
        edges: (2, E) directed edges; edge_features: (E, G).
    """

    def __init__(
        self,
        position: Tensor,
        edges: Tensor,
        edge_features: Tensor,
        size: GraphSize,
        features: int,
        width: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(features, size.channels)
        self.blocks = nn.ModuleList(
            HexBlock(size.channels, size.heads, edges, edge_features, len(position))
            for _ in range(size.blocks)
        )
        self.pool = AttentionPool(size.channels, size.queries, width, position)
        self.context = nn.Linear(width, size.channels)
        self.head = SensorHead(size.channels, 1, HINTS)

    def encode(self, features: Tensor, visible: Tensor | None = None) -> Cells:
        """Sensor features (B, F, 73) to nodes; `visible` is (B, 73)."""
        x = self.stem(features.transpose(1, 2))  # (B, N, C)
        if visible is not None:
            x = x * visible.unsqueeze(-1)
        for block in self.blocks:
            x = block(x, visible)
        return Cells(x, x)

    def token(self, cells: Cells) -> Tensor:
        """The face's token (B, D)."""
        return self.pool(cells.coarse)  # type: ignore[no-any-return]

    def read(self, cells: Cells, token: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """Means (B, MEANS, N) and log sigmas (B, SPREADS, N) from hints (B, HINTS, N)."""
        x = cells.fine + self.context(token).unsqueeze(1)
        mean, log_sigma = self.head(x, hints.transpose(1, 2))
        return mean.transpose(1, 2), log_sigma.transpose(1, 2)
