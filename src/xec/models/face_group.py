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
        self.register_buffer("grids", grids, persistent=False)
        self.register_buffer("channels", channels, persistent=False)
        self.grids: Tensor
        self.channels: Tensor

    def _gather(self, x: Tensor) -> Tensor:
        """Per-sensor values (B, F, 4760) to the faces' grids, (G * B, F, ...)."""
        B, F, _ = x.shape
        x = x.index_select(2, self.grids.reshape(-1)).reshape(B, F, *self.grids.shape)
        return x.movedim(2, 0).flatten(0, 1)

    def encode(self, features: Tensor, visible: Tensor | None = None) -> Cells:
        """Features (B, F, 4760), visibility (B, 4760) or None, to the cells of all G faces."""
        shown = None if visible is None else self._gather(visible.unsqueeze(1))
        if shown is not None and isinstance(self.network, HexFace):
            shown = shown.squeeze(1)
        return self.network.encode(self._gather(features), shown)

    def tokens(self, cells: Cells) -> Tensor:
        """One token per face, (B, G, D)."""
        token = self.network.token(cells)
        return token.reshape(len(self.faces), -1, token.shape[-1]).transpose(0, 1)

    def read(self, cells: Cells, tokens: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log sigmas of the sensors in the order of `channels`.

        Tokens (B, G, D) and hints (B, HINTS, 4760) to (B, MEANS, G * N), (B, SPREADS, G * N).
        """
        token = tokens.transpose(0, 1).flatten(0, 1)
        mean, log_sigma = self.network.read(cells, token, self._gather(hints))
        return self._side_by_side(mean), self._side_by_side(log_sigma)

    def _side_by_side(self, x: Tensor) -> Tensor:
        """(G * B, V, N) to (B, V, G * N)."""
        x = x.reshape(len(self.faces), -1, *x.shape[1:])
        return torch.cat(x.unbind(0), dim=-1)
