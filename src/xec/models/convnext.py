"""ConvNeXt V2 blocks on a grid of sensors, dense or exactly sparse.

Source: Woo et al., arXiv:2301.00808. With a visibility `v` every block equals sparse convolution
on the visible cells also when biases are not zero, because the input of each spatial operation,
the input of the GRN and the output are multiplied by `v` (METHODS M1). Without `v` the same
weights are ordinary dense convolutions.

Two things make a block fast without changing its result (`benchmarks/training.py`): channels-last
memory, in which the gradient of a depthwise kernel is cheap and permuting copies nothing, and a
GRN that never writes the wide tensor again (`GlobalResponseNorm.projected`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.precision import at_least_float32


class GlobalResponseNorm(nn.Module):
    """Global response normalisation over the cells of one sample (arXiv:2301.00808, eq. 1-3).

    The norm is computed in float32: a sum of squares over a face overflows in half precision.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        scale = self._scale(x.flatten(1, 2))[:, None, None]
        return torch.addcmul(self.beta, x, scale.to(x.dtype))

    def projected(self, x: Tensor, linear: nn.Linear) -> Tensor:
        """Map (B, N, C) to `linear` of the normalised cells, (B, N, C').

        The scale goes into the weights, a matrix for each sample, and beta into the bias.
        """
        weight = linear.weight.t() * self._scale(x).unsqueeze(-1)  # (B, C, C')
        bias = functional.linear(self.beta, linear.weight, linear.bias)
        return torch.baddbmm(bias, x, weight.to(x.dtype))

    def _scale(self, x: Tensor) -> Tensor:
        """Cells (B, N, C) to the factor of each channel (B, C), in float32 or better."""
        # A root has no derivative at 0, the norm where nothing is visible.
        norm = (at_least_float32(x).square().sum(1) + 1e-30).sqrt()
        return 1.0 + self.gamma * norm / (norm.mean(-1, keepdim=True) + 1e-6)


class DropPath(nn.Module):
    """Stochastic depth: the whole branch of a sample is dropped (Huang et al., 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Keep each sample with probability 1 - rate, scaled to keep the expectation."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * (torch.bernoulli(x.new_full(shape, keep)) / keep)


def _masked(x: Tensor, visible: Tensor | None) -> Tensor:
    return x if visible is None else x * visible


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, fourfold expansion with GELU and GRN, projection, residual.

    Args:
        channels: width C.
        drop_path: rate of stochastic depth.
        gate: attention that multiplies the branch (`xec.models.channel_attention`), or None.
    """

    def __init__(
        self, channels: int, drop_path: float = 0.0, gate: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.gate = gate
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; `visible` is (B, 1, H, W) with 1 for visible."""
        B, C, H, W = x.shape
        cells = None if visible is None else visible.permute(0, 2, 3, 1)  # (B, H, W, 1)
        x = _masked(x.contiguous(memory_format=torch.channels_last), visible)
        y = _masked(self.depthwise(x), visible).permute(0, 2, 3, 1)  # (B, H, W, C)
        y = _masked(functional.gelu(self.expand(self.norm(y))), cells)  # (B, H, W, 4C)
        y = self.grn.projected(y.flatten(1, 2), self.project).reshape(B, H, W, C)
        y = _masked(y, cells)
        y = y if self.gate is None else self.gate(y, cells)
        branch: Tensor = self.drop_path(y.permute(0, 3, 1, 2))
        return x + branch


class Downsample(nn.Module):
    """Layer norm and a strided 2x2 convolution; a coarse cell is visible if any input is (M2)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.reduce = nn.Conv2d(channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map (B, C, H, W) to (B, C', ceil(H/2), ceil(W/2)), and the visibility with it."""
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.reduce(pad_to_multiple(_masked(x, visible), 2, 2))
        if visible is None:
            return x, None
        coarse = functional.max_pool2d(pad_to_multiple(visible, 2, 2), 2)
        return x * coarse, coarse


class Upsample(nn.Module):
    """Pointwise expansion and pixel shuffle back to the finer grid (B, C, H, W)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 4 * out_channels, 1)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map (B, C', h, w) to (B, C, height, width), cutting what padding had added."""
        return functional.pixel_shuffle(self.expand(x), 2)[:, :, :height, :width]


def pad_to_multiple(x: Tensor, rows: int, columns: int) -> Tensor:
    """Zero-pad (B, C, H, W) at the far edges until the grid divides into rows x columns."""
    height, width = x.shape[-2:]
    below, right = -height % rows, -width % columns
    return functional.pad(x, (0, right, 0, below)) if below or right else x
