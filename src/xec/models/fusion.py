"""The Transformer that lets the six face tokens see each other."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.attention import SelfAttention
from xec.models.convnext import DropPath
from xec.models.positions import (
    DistanceBias,
    GeometricPositions,
    LearnablePositions,
    PositionKind,
    RotaryPositions,
    SinusoidalPositions,
)


class FusionLayer(nn.Module):
    """Pre-norm Transformer encoder layer from exportable operations.

    Args:
        width: width D of a token.
        attention: maps (B, T, D) to (B, T, D).
        feed_forward: hidden width of the perceptron.
        drop_path: stochastic depth rate of both branches.
    """

    def __init__(
        self, width: int, attention: SelfAttention, feed_forward: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = attention
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, feed_forward)
        self.project = nn.Linear(feed_forward, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + self.drop_path(self.attention(self.norm_attention(x)))
        y = self.project(functional.gelu(self.expand(self.norm_mlp(x))))
        return x + self.drop_path(y)  # type: ignore[no-any-return]


class Fusion(nn.Module):
    """Positions and `layers` encoder layers over the face tokens.

    Args:
        centroids: (T, 3) cm, mean position of each face's sensors, in the order of the tokens.
        width: width D of a token.
        heads: attention heads.
        feed_forward: hidden width of the layers' perceptrons.
        layers: number of layers.
        positions: how a token's face enters (`xec.models.positions`).
        drop_path: stochastic depth rate of the last layer; rising linearly from 0.
    """

    def __init__(
        self,
        centroids: Tensor,
        width: int,
        heads: int,
        feed_forward: int,
        layers: int,
        positions: PositionKind = "learnable",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if positions not in get_args(PositionKind):
            raise ValueError(f"there are no {positions!r} positions")
        self.positions = _added(positions, centroids, width)
        self.layers = nn.ModuleList(
            FusionLayer(width, _attention(positions, centroids, width, heads), feed_forward, rate)
            for rate in torch.linspace(0.0, drop_path, layers).tolist()
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = self.positions(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)  # type: ignore[no-any-return]


def _added(kind: PositionKind, centroids: Tensor, width: int) -> nn.Module:
    """What is added to the tokens before the first layer."""
    if kind == "learnable":
        return LearnablePositions(len(centroids), width)
    if kind == "sinusoidal":
        return SinusoidalPositions(len(centroids), width)
    if kind == "geometric":
        return GeometricPositions(centroids, width)
    return nn.Identity()


def _attention(kind: PositionKind, centroids: Tensor, width: int, heads: int) -> SelfAttention:
    """One layer's attention; its positions are its own, since tracing forbids shared buffers."""
    if kind == "rotary":
        return SelfAttention(width, heads, rotary=RotaryPositions(centroids, width // heads))
    if kind == "alibi":
        return SelfAttention(width, heads, bias=DistanceBias(centroids, heads))
    return SelfAttention(width, heads)
