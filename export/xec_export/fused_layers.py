"""Layers of the fused view (`xec_export.fuse`): ConvNeXt V2 block, graph attention, sensor head.

Weights are folded once, when a fused layer is made from the plain one.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.convnext import ConvNeXtBlock
from xec.models.heads import SensorHead, bounded
from xec.models.hexgat import NEGATIVE_SLOPE, GraphAttention
from xec.models.precision import at_least_float32


class FusedBlock(nn.Module):
    """A `ConvNeXtBlock` without visibility; its weights are folded once, here."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        super().__init__()
        norm, expand, grn, project = block.norm, block.expand, block.grn, block.project
        self.depthwise, self.gate, self.eps = block.depthwise, block.gate, norm.eps
        with torch.no_grad():
            expand_bias = functional.linear(norm.bias, expand.weight, expand.bias)
            project_bias = functional.linear(grn.beta, project.weight, project.bias)
            self.register_buffer("expand_weight", (expand.weight * norm.weight).t().contiguous())
            self.register_buffer("expand_bias", expand_bias)
            self.register_buffer("gamma", grn.gamma.clone())
            self.register_buffer("project_weight", project.weight.clone())  # (C, 4C)
            self.register_buffer("project_bias", project_bias[:, None, None].clone())
        self.expand_weight: Tensor
        self.expand_bias: Tensor
        self.gamma: Tensor
        self.project_weight: Tensor
        self.project_bias: Tensor

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; everything is visible."""
        if visible is not None:
            raise ValueError("the fused view has no visibility: pretraining runs the plain block")
        B, C, H, W = x.shape
        y = self.depthwise(x).permute(0, 2, 3, 1).reshape(-1, C)
        y = functional.layer_norm(y, (C,), eps=self.eps)
        h = functional.gelu(torch.addmm(self.expand_bias, y, self.expand_weight))
        h = h.reshape(B, H * W, -1)
        weight = self.project_weight * self._scale(h).unsqueeze(1)  # (B, C, 4C)
        z = torch.matmul(weight.to(h.dtype), h.transpose(1, 2)).reshape(B, C, H, W)
        z = z + self.project_bias
        if self.gate is not None:
            z = self.gate(z.permute(0, 2, 3, 1), None).permute(0, 3, 1, 2)
        return x + z

    def _scale(self, h: Tensor) -> Tensor:
        """Cells (B, N, 4C) to the factor of each channel (B, 4C), as `GlobalResponseNorm` has."""
        wide = at_least_float32(h)
        ones = wide.new_ones(1, h.shape[1])
        norm = torch.matmul(ones, wide * wide).squeeze(1).sqrt()
        return 1.0 + self.gamma * norm / (norm.mean(-1, keepdim=True) + 1e-6)


class FusedGraphAttention(GraphAttention):
    """Sums within heads as products with matrices of ones and zeros."""

    def __init__(self, plain: GraphAttention) -> None:
        nn.Module.__init__(self)
        self.heads, channels = plain.heads, plain.bias.shape[0]
        self.source, self.target, self.bias = plain.source, plain.target, plain.bias
        member = torch.eye(self.heads).repeat_interleave(
            channels // self.heads, dim=0
        )  # (C, heads)
        with torch.no_grad():
            member = member.to(plain.attention)  # (C, heads)
            self.register_buffer("edges", plain.edge(plain.feature), persistent=False)  # (N, K, C)
            score = member * plain.attention.reshape(-1, 1)
            self.register_buffer("score", score.clone(), persistent=False)
            self.register_buffer("spread", member.t().contiguous(), persistent=False)
        self.register_buffer("neighbour", plain.neighbour.clone(), persistent=False)
        self.register_buffer("used", plain.used.clone(), persistent=False)
        self.edges: Tensor
        self.score: Tensor
        self.spread: Tensor

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, N, C) to (B, N, C); everything is visible."""
        B, N, C = x.shape
        K = self.neighbour.shape[1]
        message = self.source(x).index_select(1, self.neighbour.reshape(-1)).reshape(B, N, K, C)
        query = self.target(x).unsqueeze(2) + message + self.edges
        score = functional.leaky_relu(query, NEGATIVE_SLOPE) @ self.score  # (B, N, K, heads)
        weight = self._normalise(score, visible).to(message.dtype) @ self.spread  # (B, N, K, C)
        mixed: Tensor = (weight * message).sum(2)
        return mixed + self.bias


class FusedSensorHead(nn.Module):
    """A `SensorHead` with its layer norms' affine in the hidden weights.

    Where both paths see the same features, normalising and joining them is then the same twice,
    which ONNX Runtime does once.
    """

    def __init__(self, plain: SensorHead) -> None:
        super().__init__()
        self.mean, self.spread = plain.mean, plain.spread
        self.channels, self.eps = plain.norm.normalized_shape, plain.norm.eps
        self.mean_hidden = _after_norm(plain.norm, plain.mean_hidden)
        self.spread_hidden = _after_norm(plain.spread_norm, plain.spread_hidden)

    def forward(
        self, x: Tensor, hints: Tensor, spread_x: Tensor, spread_hints: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `SensorHead.forward`."""
        mean = self.mean(functional.gelu(self.mean_hidden(self._seen(x, hints))))
        seen = self._seen(spread_x, spread_hints)
        spread = self.spread(functional.gelu(self.spread_hidden(seen)))
        return at_least_float32(mean), bounded(spread)

    def _seen(self, x: Tensor, hints: Tensor) -> Tensor:
        normal = functional.layer_norm(x, self.channels, eps=self.eps)
        return torch.cat([normal, hints], dim=-1)


def _after_norm(norm: nn.LayerNorm, linear: nn.Linear) -> nn.Linear:
    """`linear` of inputs whose first columns come from `norm` without its affine."""
    folded = copy.deepcopy(linear)
    columns = norm.normalized_shape[0]
    with torch.no_grad():
        folded.bias.add_(linear.weight[:, :columns] @ norm.bias)
        folded.weight[:, :columns].mul_(norm.weight)
    return folded
