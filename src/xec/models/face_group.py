"""Faces that share a network because they are mirror images: us with ds, top with bottom."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xec.detector.channels import Face
from xec.models.faces import Cells, GridFace, HexFace


class FaceGroup(nn.Module):
    """One network for G faces of the same shape, run side by side as a larger batch.

    Args:
        network: the shared network.
        faces: the G faces.
        grids: channel ids as the network sees them, (G, H, W) for grids or (G, N) for graphs.
        channels: channel ids in the order in which the network reads back, (G, N).
    """

    def __init__(
        self,
        network: GridFace | HexFace,
        faces: tuple[Face, ...],
        grids: Tensor,
        channels: Tensor,
    ) -> None:
        super().__init__()
        self.network = network
        self.faces = faces
        # Copies: TorchScript's tracer refuses a tensor that two buffers share.
        self.register_buffer("grids", grids.clone(), persistent=False)
        self.register_buffer("channels", channels.clone(), persistent=False)
        self.grids: Tensor
        self.channels: Tensor

    def gather(self, x: Tensor) -> Tensor:
        """Per-sensor values (B, F, 4760) to the faces' grids, (G * B, F, ...)."""
        B, F, _ = x.shape
        x = x.index_select(2, self.grids.reshape(-1)).reshape(B, F, *self.grids.shape)
        return x.movedim(2, 0).flatten(0, 1)

    def encode(self, features: Tensor, visible: Tensor | None = None) -> Cells:
        """Features (B, F, 4760), visibility (B, 4760) or None, to the cells of all G faces."""
        shown = None if visible is None else self.gather(visible.unsqueeze(1))
        if shown is not None and isinstance(self.network, HexFace):
            shown = shown.squeeze(1)
        return self.network.encode(self.gather(features), shown)

    def tokens(self, cells: Cells) -> Tensor:
        """One token per face, (B, G, D)."""
        token = self.network.token(cells)
        return token.reshape(len(self.faces), -1, token.shape[-1]).transpose(0, 1)

    def decode(self, cells: Cells, tokens: Tensor) -> Tensor:
        """Cells and fused tokens (B, G, D) to features of the cells, (G * B, ..., C)."""
        return self.network.decode(cells, tokens.transpose(0, 1).flatten(0, 1))

    def to_cells(self, x: Tensor) -> Tensor:
        """Per-sensor values (B, V, 4760) to the cells, (G * B, ..., V * sensors per cell)."""
        return self.network.to_cells(self.gather(x))

    def to_sensors(self, x: Tensor) -> Tensor:
        """Values at the cells (G * B, ..., V * sensors) to (B, V, G * N), ordered as `channels`."""
        x = self.network.to_sensors(x)
        x = x.reshape(len(self.faces), -1, *x.shape[1:])
        return torch.cat(x.unbind(0), dim=-1)


class ChannelOrder(nn.Module):
    """Puts what the groups read back, one after the other, into the order of channel ids."""

    def __init__(self, groups: list[FaceGroup], channels: int) -> None:
        super().__init__()
        order = torch.cat([group.channels.reshape(-1) for group in groups])
        place = torch.empty(channels, dtype=torch.long)
        place[order] = torch.arange(channels)
        self.register_buffer("place", place, persistent=False)
        self.place: Tensor

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Tensors (B, V, G * N) of all groups to (B, V, 4760)."""
        return torch.cat(parts, dim=-1).index_select(2, self.place)
