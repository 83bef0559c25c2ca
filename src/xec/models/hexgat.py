"""Graph attention on the hexagonal faces: GATv2 with edge features, as fixed-size tensors.

Source: Brody et al., arXiv:2105.14491 (GATv2), with the edge term of torch_geometric's layer.
The neighbours of each node stand in a table of constant width, so that the operation exports
without data-dependent shapes. Edge features make it direction-aware: exchanging the values of
two neighbours changes the result (METHODS, graph faces).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.models.convnext import DropPath
from xec.models.precision import at_least_float32

NEGATIVE_SLOPE = 0.2


def neighbour_table(edges: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Turn directed edges into a table of incoming edges per node.

    Args:
        edges: (2, E) with source and target of each edge.
        nodes: number of nodes.

    Returns:
        Index of the incoming edges, (nodes, K) with 0 in unused places, and a mask of used ones.
    """
    degree = torch.bincount(edges[1], minlength=nodes)
    table = torch.zeros(nodes, int(degree.max()), dtype=torch.long)
    used = torch.zeros_like(table, dtype=torch.bool)
    filled = [0] * nodes
    for edge, target in enumerate(edges[1].tolist()):
        table[target, filled[target]] = edge
        used[target, filled[target]] = True
        filled[target] += 1
    return table, used


class GraphAttention(nn.Module):
    """GATv2 over incoming edges: alpha_ij = softmax_j a . LeakyReLU(W_t x_i + W_s x_j + W_e e_ij).

    Args:
        channels: width of input and output, divided among the heads.
        heads: number of attention heads.
        edges: (2, E) source and target nodes.
        edge_features: (E, G) constant features of the edges.
        nodes: number of nodes.
    """

    def __init__(
        self, channels: int, heads: int, edges: Tensor, edge_features: Tensor, nodes: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.source = nn.Linear(channels, channels)
        self.target = nn.Linear(channels, channels)
        self.edge = nn.Linear(edge_features.shape[1], channels, bias=False)
        self.attention = nn.Parameter(torch.empty(heads, channels // heads))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.xavier_uniform_(self.attention)
        table, used = neighbour_table(edges, nodes)
        self.register_buffer("neighbour", edges[0][table], persistent=False)  # (N, K)
        self.register_buffer("used", used, persistent=False)  # (N, K)
        self.register_buffer("feature", edge_features[table], persistent=False)  # (N, K, G)
        self.neighbour: Tensor
        self.used: Tensor
        self.feature: Tensor

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, N, C) to (B, N, C); `visible` (B, N) hides nodes from their neighbours."""
        B, N, C = x.shape
        K = self.neighbour.shape[1]
        source = self.source(x)
        message = source.index_select(1, self.neighbour.reshape(-1)).reshape(B, N, K, C)
        query = self.target(x).unsqueeze(2) + message + self.edge(self.feature)  # (B, N, K, C)
        query = functional.leaky_relu(query, NEGATIVE_SLOPE).reshape(B, N, K, self.heads, -1)
        score = (query * self.attention).sum(-1)  # (B, N, K, heads)
        weight = self._normalise(score, visible).to(message.dtype)
        message = message.reshape(B, N, K, self.heads, -1)
        mixed: Tensor = (weight.unsqueeze(-1) * message).sum(2)
        return mixed.reshape(B, N, C) + self.bias

    def _normalise(self, score: Tensor, visible: Tensor | None) -> Tensor:
        """Softmax over the used (and visible) neighbours; all hidden gives zero weights."""
        used = self.used.unsqueeze(-1)  # (N, K, 1)
        if visible is not None:
            N, K = self.neighbour.shape
            seen = visible.index_select(1, self.neighbour.reshape(-1)).reshape(-1, N, K) > 0
            used = used & seen.unsqueeze(-1)
        score = at_least_float32(score)
        score = score.masked_fill(~used, torch.finfo(torch.float32).min)
        return torch.softmax(score, dim=2) * used


class HexBlock(nn.Module):
    """A mixer of neighbours and a two-layer perceptron, each with pre-norm and residual.

    Args:
        channels: channels C.
        mixer: maps x (B, N, C) and visible (B, N) or None to (B, N, C): `GraphAttention` or
            `xec.models.hexconv.HexDepthwise`. Hidden nodes must not change visible ones.
        drop_path: stochastic depth rate of both branches.
    """

    def __init__(self, channels: int, mixer: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm_mixer = nn.LayerNorm(channels)
        self.mixer = mixer
        self.norm_mlp = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(2 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, N, C) to the same shape; hidden nodes stay exactly zero."""
        x = x + self.drop_path(self.mixer(self.norm_mixer(x), visible))
        x = x + self.drop_path(self.project(functional.gelu(self.expand(self.norm_mlp(x)))))
        return x if visible is None else x * visible.unsqueeze(-1)
