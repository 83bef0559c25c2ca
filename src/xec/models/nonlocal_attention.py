"""Non-local block: every cell of a face looks at the whole face.

Source: Wang et al., arXiv:1711.07971, embedded Gaussian (eq. 2-6) with the subsampling of section
3.3: keys and values come from a coarser grid, which divides the cost by the square of
`subsample`. The scores carry the Transformer's 1 / sqrt(width), which the embeddings could
absorb, so that the softmax does not start saturated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.convnext import pad_to_multiple
from xec.models.precision import at_least_float32


class NonLocal(nn.Module):
    """Residual self-attention over the cells of a grid; exactly the identity until trained.

    Args:
        channels: channels C; the embeddings have half of them, at least one.
        subsample: cells per side of a key's block.
    """

    def __init__(self, channels: int, subsample: int = 2) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.subsample = subsample
        self.scale = width**-0.5
        self.query = nn.Linear(channels, width)
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, width)
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; `visible` is (B, 1, H, W) with 1 for visible."""
        x = x if visible is None else x * visible
        cells = x.flatten(2).transpose(1, 2)  # (B, N, C)
        coarse, seen = self._subsample(x, visible)  # (B, M, C), (B, 1, M)
        score = self.query(cells) @ self.key(coarse).transpose(1, 2) * self.scale  # (B, N, M)
        value = self.value(coarse)
        branch: Tensor = self.out(_normalise(score, seen).to(value.dtype) @ value)  # (B, N, C)
        branch = branch.transpose(1, 2).reshape(x.shape)
        return x + (branch if visible is None else branch * visible)

    def _subsample(self, x: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Means over the visible cells of each block, and which blocks have any."""
        # Without visibility the cells that padding adds still must not count.
        weight = x.new_ones(1, 1, *x.shape[2:]) if visible is None else visible
        share = self._block_mean(weight)  # (B or 1, 1, h, w)
        coarse = self._block_mean(x) / share.clamp(min=0.5 * self.subsample**-2)
        seen = None if visible is None else share.flatten(2) > 0
        return coarse.flatten(2).transpose(1, 2), seen

    def _block_mean(self, x: Tensor) -> Tensor:
        padded = pad_to_multiple(x, self.subsample, self.subsample)
        mean: Tensor = functional.avg_pool2d(padded, self.subsample)
        return mean


def _normalise(score: Tensor, seen: Tensor | None) -> Tensor:
    """Softmax over the seen keys; finite, if meaningless, where none is seen."""
    score = at_least_float32(score)
    if seen is not None:
        score = score.masked_fill(~seen, torch.finfo(torch.float32).min)
    return torch.softmax(score, dim=-1)
