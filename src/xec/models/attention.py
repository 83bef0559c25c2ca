"""Attention from primitive operations, so that it exports: self-attention and pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xec.models.precision import at_least_float32


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product self-attention (Vaswani et al., arXiv:1706.03762, eq. 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        score = q @ k.transpose(-2, -1) * (D // self.heads) ** -0.5  # (B, heads, T, T)
        weight = torch.softmax(at_least_float32(score), dim=-1).to(v.dtype)
        return self.out((weight @ v).transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class AttentionPool(nn.Module):
    """K learned queries gather the cells of a face into one token.

    Each query takes a softmax over all cells, so every cell has a gradient (METHODS M3), and the
    cells' positions are averaged with the same weights: a learned, sub-cell centre of light.

    Args:
        channels: features per cell.
        queries: number of queries K.
        width: width D of the token.
        position: (N, 2) coordinates of the cells, of order one.
    """

    def __init__(self, channels: int, queries: int, width: int, position: Tensor) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.score = nn.Linear(channels, queries)
        self.register_buffer("position", position, persistent=False)  # (N, 2)
        self.position: Tensor
        self.token = nn.Linear(queries * (channels + position.shape[1]) + channels, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map cells (B, N, C) to a token (B, D)."""
        y = self.norm(x)
        weight = (
            torch.softmax(at_least_float32(self.score(y)), dim=1).to(y.dtype).transpose(1, 2)
        )  # (B,K,N)
        content = (weight @ y).flatten(1)  # (B, K C)
        place = (weight @ self.position).flatten(1)  # (B, 2 K)
        return self.token(torch.cat([content, place, y.mean(1)], dim=1))  # type: ignore[no-any-return]
