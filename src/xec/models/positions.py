"""Positions of the face tokens: learnable codes, as the specification's default."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnablePositions(nn.Module):
    """One learned vector per face, truncated normal with standard deviation 0.02."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.zeros(1, tokens, width))
        nn.init.trunc_normal_(self.code, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the codes to tokens (B, T, D)."""
        return tokens + self.code
