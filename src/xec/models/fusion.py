"""The Transformer that lets the six face tokens see each other."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from xec.models.attention import SelfAttention
from xec.models.positions import LearnablePositions


class FusionLayer(nn.Module):
    """Pre-norm Transformer encoder layer from exportable operations."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, feed_forward)
        self.project = nn.Linear(feed_forward, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + self.attention(self.norm_attention(x))
        return x + self.project(functional.gelu(self.expand(self.norm_mlp(x))))  # type: ignore[no-any-return]


class Fusion(nn.Module):
    """Positions and `layers` encoder layers over the face tokens."""

    def __init__(self, tokens: int, width: int, heads: int, feed_forward: int, layers: int) -> None:
        super().__init__()
        self.positions = LearnablePositions(tokens, width)
        self.layers = nn.ModuleList(FusionLayer(width, heads, feed_forward) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = self.positions(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)  # type: ignore[no-any-return]
