"""Graph attention: a slow reference, direction, hidden nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xec.detector.adjacency import HEXAGONAL_RADIUS, edge_offsets, face_edges
from xec.detector.channels import Face
from xec.detector.geometry import parametric
from xec.models.hexgat import GraphAttention, HexBlock, neighbour_table

NODES = 73


@pytest.fixture(scope="module")
def edges() -> Tensor:
    return torch.from_numpy(face_edges(parametric(), Face.TOP, HEXAGONAL_RADIUS))


@pytest.fixture(scope="module")
def offsets(edges: Tensor) -> Tensor:
    return torch.tensor(edge_offsets(parametric(), Face.TOP, edges.numpy()) / 7.0)


@pytest.fixture
def layer(edges: Tensor, offsets: Tensor) -> GraphAttention:
    torch.manual_seed(3)
    return GraphAttention(8, 2, edges, offsets, NODES).double()


def reference(layer: GraphAttention, x: Tensor, edges: Tensor, offsets: Tensor) -> Tensor:
    """GATv2 edge by edge, one node and head after the other (arXiv:2105.14491, eq. 7)."""
    source, target, feature = layer.source(x), layer.target(x), layer.edge(offsets)
    width = x.shape[1] // layer.heads
    result = torch.zeros_like(x)
    for node in range(NODES):
        incoming = (edges[1] == node).nonzero().ravel().tolist()
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            scores = [
                layer.attention[head]
                @ functional.leaky_relu(
                    target[node, part] + source[edges[0, e], part] + feature[e, part], 0.2
                )
                for e in incoming
            ]
            weights = torch.softmax(torch.stack(scores).double(), dim=0)
            for weight, e in zip(weights, incoming, strict=True):
                result[node, part] += weight * source[edges[0, e], part]
    return result + layer.bias


def test_attention_equals_the_slow_reference(
    layer: GraphAttention, edges: Tensor, offsets: Tensor
) -> None:
    x = torch.randn(2, NODES, 8, dtype=torch.float64)
    result = layer(x)
    for b in range(2):
        assert (result[b] - reference(layer, x[b], edges, offsets)).abs().max() < 1e-5


def test_table_holds_every_edge_once(edges: Tensor) -> None:
    table, used = neighbour_table(edges, NODES)
    assert table.shape == (NODES, 6)
    assert int(used.sum()) == 366
    assert sorted(table[used].tolist()) == list(range(366))
    for node in range(NODES):
        assert (edges[1][table[node][used[node]]] == node).all()


def _with_exchanged_neighbours(x: Tensor, edges: Tensor) -> tuple[Tensor, int]:
    """Exchange the values of two neighbours of a node that are not neighbours of each other."""
    centre = int(np.argmax(np.bincount(edges[1].numpy())))
    first, second = edges[0][edges[1] == centre][:2].tolist()
    exchanged = x.clone()
    exchanged[:, first], exchanged[:, second] = x[:, second], x[:, first]
    return exchanged, centre


def test_exchanging_two_neighbours_changes_the_node(layer: GraphAttention, edges: Tensor) -> None:
    x = torch.randn(1, NODES, 8, dtype=torch.float64)
    exchanged, centre = _with_exchanged_neighbours(x, edges)
    assert (layer(x)[0, centre] - layer(exchanged)[0, centre]).abs().max() > 1e-3


def test_without_edge_features_attention_has_no_direction(
    layer: GraphAttention, edges: Tensor
) -> None:
    """Negative control: plain graph attention cannot tell which neighbour is which."""
    with torch.no_grad():
        layer.edge.weight.zero_()
    x = torch.randn(1, NODES, 8, dtype=torch.float64)
    exchanged, centre = _with_exchanged_neighbours(x, edges)
    assert (layer(x)[0, centre] - layer(exchanged)[0, centre]).abs().max() < 1e-6


def test_hidden_nodes_change_nothing(edges: Tensor, offsets: Tensor) -> None:
    torch.manual_seed(4)
    block = HexBlock(8, 2, edges, offsets, NODES).double().eval()
    visible = (torch.rand(2, NODES) > 0.5).double()
    x = torch.randn(2, NODES, 8, dtype=torch.float64) * visible.unsqueeze(-1)
    other = x + 100.0 * (1.0 - visible).unsqueeze(-1)
    result = block(x, visible)
    assert torch.equal(result, block(other * visible.unsqueeze(-1), visible))
    attention = block.attention
    seen = visible.bool()
    assert torch.equal(attention(x, visible)[seen], attention(other, visible)[seen])
    assert not torch.allclose(attention(x)[seen], attention(other)[seen])
    assert (result[~seen] == 0).all()


def test_a_node_without_visible_neighbours_stays_finite(layer: GraphAttention) -> None:
    x = torch.randn(1, NODES, 8, dtype=torch.float64)
    assert torch.equal(layer(x, torch.zeros(1, NODES))[0], layer.bias.expand(NODES, -1))
