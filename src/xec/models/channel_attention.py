"""Gates inside the branch of a ConvNeXt V2 block: squeeze-and-excitation and CBAM.

Both multiply the branch by gates in (0, 2): 2 sigmoid(z) instead of the papers' sigmoid(z), with
the last layer of z initialised to zero, so that a gate put into a pretrained encoder starts as
exactly the identity. With a visibility the pools see visible cells only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROUNDING = 8  # hidden widths are multiples of this, as vector units like them


def hidden_width(channels: int, reduction: int) -> int:
    """Width of the bottleneck: channels / reduction to the nearest multiple of 8, at least 8."""
    return max(ROUNDING, (channels // reduction + ROUNDING // 2) // ROUNDING * ROUNDING)


class Bottleneck(nn.Module):
    """The two-layer perceptron of a channel gate; zero until trained.

    Args:
        channels: channels C of the cells.
        reduction: how much narrower the hidden layer is.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.reduce = nn.Linear(channels, hidden)
        self.restore = nn.Linear(hidden, channels)
        nn.init.zeros_(self.restore.weight)
        nn.init.zeros_(self.restore.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, C) to logits (B, C)."""
        return self.restore(functional.relu(self.reduce(pooled)))  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """Channel gate from the mean over cells (Hu et al., arXiv:1709.01507)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, reduction)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `visible` is (B, H, W, 1) with 1 for visible."""
        x = x if visible is None else x * visible
        return x * _gate(self.bottleneck(_mean(x, visible)))[:, None, None]


class Cbam(nn.Module):
    """Channel gate from mean and maximum, then a gate per cell (Woo et al., arXiv:1807.06521).

    The convolution of the spatial gate has a bias in place of the reference's batch norm, which
    would make an event's result depend on its batch.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, reduction)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)
        nn.init.zeros_(self.spatial.weight)
        nn.init.zeros_(self.spatial.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `visible` is (B, H, W, 1) with 1 for visible."""
        x = x if visible is None else x * visible
        z = self.bottleneck(_mean(x, visible)) + self.bottleneck(_maximum(x, visible))
        x = x * _gate(z)[:, None, None]
        # Hidden cells are zero and so are both of their summaries: a sparse convolution.
        summary = torch.stack([x.mean(-1), x.amax(-1)], dim=1)  # (B, 2, H, W)
        return x * _gate(self.spatial(summary)).permute(0, 2, 3, 1)


def _gate(z: Tensor) -> Tensor:
    return 2.0 * torch.sigmoid(z)


def _mean(x: Tensor, visible: Tensor | None) -> Tensor:
    """Mean over visible cells (B, C), 0 where nothing is visible; hidden cells of `x` are zero."""
    if visible is None:
        return x.mean((1, 2))
    return x.sum((1, 2)) / visible.sum((1, 2)).clamp(min=1.0)


def _maximum(x: Tensor, visible: Tensor | None) -> Tensor:
    """Maximum over visible cells (B, C), 0 where nothing is visible."""
    if visible is None:
        return x.amax((1, 2))
    shown = visible > 0
    largest = x.masked_fill(~shown, torch.finfo(x.dtype).min).amax((1, 2))
    return torch.where(shown.any(2).any(1), largest, torch.zeros_like(largest))
