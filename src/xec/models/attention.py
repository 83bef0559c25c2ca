"""Attention from primitive operations, so that it exports: self-attention and pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xec.models.positions import DistanceBias, RotaryPositions
from xec.models.precision import at_least_float32


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product self-attention (Vaswani et al., arXiv:1706.03762, eq. 1).

    Args:
        width: width D of a token.
        heads: number of heads; divides the width.
        rotary: turns queries and keys by the tokens' positions.
        bias: added to the scores.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        rotary: RotaryPositions | None = None,
        bias: DistanceBias | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.rotary = rotary
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).reshape(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        score = at_least_float32(q @ k.transpose(-2, -1) * self.scale)  # (B, heads, T, T)
        if self.bias is not None:
            score = score + self.bias()
        weight = torch.softmax(score, dim=-1).to(v.dtype)
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
        self.register_buffer("position", position.clone(), persistent=False)  # (N, 2)
        self.position: Tensor
        self.token = nn.Linear(queries * (channels + position.shape[1]) + channels, width)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map cells (B, N, C) to a token (B, D); with `visible` (B, N), of visible cells only."""
        y = self.norm(x)
        weight = self._weights(y, visible)  # (B, K, N)
        content = (weight @ y).flatten(1)  # (B, K C)
        place = (weight @ self.position).flatten(1)  # (B, 2 K)
        mean = y.mean(1) if visible is None else _visible_mean(y, visible)
        return self.token(torch.cat([content, place, mean], dim=1))  # type: ignore[no-any-return]

    def _weights(self, y: Tensor, visible: Tensor | None) -> Tensor:
        """Each query's softmax over the (visible) cells; all zero where nothing is visible."""
        score = at_least_float32(self.score(y))  # (B, N, K)
        if visible is None:
            return torch.softmax(score, dim=1).to(y.dtype).transpose(1, 2)
        shown = visible.unsqueeze(-1) > 0
        # A finite "minus infinity": a face with nothing visible must not become 0 / 0.
        score = score.masked_fill(~shown, torch.finfo(torch.float32).min)
        return (torch.softmax(score, dim=1) * shown).to(y.dtype).transpose(1, 2)


def _visible_mean(y: Tensor, visible: Tensor) -> Tensor:
    """Mean of (B, N, C) over the visible cells, (B, C); 0 where nothing is visible."""
    shown = visible.unsqueeze(-1).to(y.dtype)
    return (y * shown).sum(1) / shown.sum(1).clamp(min=1.0)
