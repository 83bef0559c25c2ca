"""Graph attention: a slow reference, torch_geometric's layer, direction, hidden nodes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.detector.adjacency import HEXAGONAL_RADIUS, edge_offsets, face_edges
from xec.detector.channels import Face
from xec.detector.geometry import parametric
from xec.models.hexconv import HexDepthwise
from xec.models.hexgat import GraphAttention, HexBlock, neighbour_table

NODES, CHANNELS = 73, 8


@pytest.fixture(scope="module")
def edges() -> Tensor:
    return torch.from_numpy(face_edges(parametric(), Face.TOP, HEXAGONAL_RADIUS))


@pytest.fixture(scope="module")
def offsets(edges: Tensor) -> Tensor:
    return torch.tensor(edge_offsets(parametric(), Face.TOP, edges.numpy()) / 7.0)


@pytest.fixture
def layer(edges: Tensor, offsets: Tensor) -> GraphAttention:
    torch.manual_seed(3)
    return GraphAttention(CHANNELS, 2, edges, offsets, NODES).double()


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
        assert (result[b] - reference(layer, x[b], edges, offsets)).abs().max() < 1e-12


def test_table_holds_every_edge_once(edges: Tensor) -> None:
    table, used = neighbour_table(edges, NODES)
    assert table.shape == (NODES, 6)
    assert int(used.sum()) == 366
    assert sorted(table[used].tolist()) == list(range(366))
    for node in range(NODES):
        assert (edges[1][table[node][used[node]]] == node).all()


def geometric() -> Any:
    """torch_geometric's layers; it compiles some of itself with TorchScript as it is imported."""
    pytest.importorskip("torch_geometric.typing", reason="torch_geometric is the reference here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch_geometric.nn
    return torch_geometric.nn


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_that_of_torch_geometric(heads: int, edges: Tensor, offsets: Tensor) -> None:
    torch.manual_seed(5)
    ours = GraphAttention(CHANNELS, heads, edges, offsets, NODES).double()
    nn.init.normal_(ours.bias)
    theirs = geometric().GATv2Conv(
        CHANNELS, CHANNELS // heads, heads, edge_dim=offsets.shape[1], add_self_loops=False
    )
    theirs = theirs.double()
    theirs.lin_l.load_state_dict(ours.source.state_dict())
    theirs.lin_r.load_state_dict(ours.target.state_dict())
    theirs.lin_edge.load_state_dict(ours.edge.state_dict())
    with torch.no_grad():
        theirs.att.copy_(ours.attention.unsqueeze(0))
        theirs.bias.copy_(ours.bias)
    x = torch.randn(2, NODES, CHANNELS, dtype=torch.float64)
    for b in range(2):
        expected = theirs(x[b], edges, offsets)
        assert (ours(x)[b] - expected).abs().max() < 1e-12
        assert (ours(x)[b] - theirs(x[b], edges, -offsets)).abs().max() > 1e-3


def _with_exchanged_neighbours(x: Tensor, edges: Tensor) -> tuple[Tensor, int]:
    """Exchange the values of two neighbours of a node."""
    centre = int(np.argmax(np.bincount(edges[1].numpy())))
    first, second = edges[0][edges[1] == centre][:2].tolist()
    exchanged = x.clone()
    exchanged[:, first], exchanged[:, second] = x[:, second], x[:, first]
    return exchanged, centre


def test_exchanging_two_neighbours_changes_the_node(layer: GraphAttention, edges: Tensor) -> None:
    x = torch.randn(1, NODES, CHANNELS, dtype=torch.float64)
    exchanged, centre = _with_exchanged_neighbours(x, edges)
    assert (layer(x)[0, centre] - layer(exchanged)[0, centre]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["GATConv", "GATv2Conv"])
def test_plain_graph_attention_has_no_direction(kind: str, edges: Tensor) -> None:
    """Negative control: without edge features it cannot tell which neighbour is which."""
    torch.manual_seed(6)
    plain = getattr(geometric(), kind)(CHANNELS, 4, 2, add_self_loops=False).double()
    x = torch.randn(1, NODES, CHANNELS, dtype=torch.float64)
    exchanged, centre = _with_exchanged_neighbours(x, edges)
    before, after = plain(x[0], edges), plain(exchanged[0], edges)
    assert (before[centre] - after[centre]).abs().max() < 1e-12
    assert (before - after).abs().max() > 1e-3  # elsewhere the exchange is seen


def mixer(kind: str, edges: Tensor, offsets: Tensor) -> nn.Module:
    if kind == "attention":
        return GraphAttention(CHANNELS, 2, edges, offsets, NODES)
    return HexDepthwise(CHANNELS, edges, offsets, NODES)


@pytest.fixture(params=["attention", "depthwise"])
def block(request: pytest.FixtureRequest, edges: Tensor, offsets: Tensor) -> Any:
    torch.manual_seed(4)
    return HexBlock(CHANNELS, mixer(request.param, edges, offsets)).double().eval()


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(3, NODES, CHANNELS, generator=generator, dtype=torch.float64)


@pytest.fixture
def visible() -> Tensor:
    """Two events with hidden nodes and one with nothing else."""
    shown = torch.rand(3, NODES, generator=torch.Generator().manual_seed(8)) > 0.5
    shown[2] = False
    return shown.double()


def test_block_is_two_residual_branches(block: Any, x: Tensor) -> None:
    y = x + block.mixer(functional.layer_norm(x, (CHANNELS,)), None)
    hidden = functional.gelu(
        functional.layer_norm(y, (CHANNELS,)) @ block.expand.weight.T + block.expand.bias
    )
    expected = y + hidden @ block.project.weight.T + block.project.bias
    assert (block(x) - expected).abs().max() < 1e-12


def test_hidden_nodes_change_nothing_stay_zero_and_have_no_gradient(
    block: Any, x: Tensor, visible: Tensor
) -> None:
    x.requires_grad_()
    result = block(x, visible)
    hidden = visible == 0
    assert (result[hidden] == 0).all()
    other = torch.where(hidden.unsqueeze(-1), 1e3 * x.detach().flip(1), x)
    assert torch.equal(result, block(other, visible))
    assert not torch.allclose(block(x)[~hidden], block(other)[~hidden])
    gradient = torch.autograd.grad(result.square().sum(), x)[0]
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] != 0).any()
    assert torch.isfinite(gradient).all()


def test_everything_visible_equals_no_visibility(block: Any, x: Tensor) -> None:
    assert torch.equal(block(x), block(x, torch.ones(3, NODES, dtype=torch.float64)))


def test_events_do_not_see_each_other(block: Any, x: Tensor, visible: Tensor) -> None:
    assert torch.allclose(block(x[:1]), block(x)[:1], atol=1e-12, rtol=0)
    alone = block(x[:1], visible[:1])
    assert torch.allclose(alone, block(x, visible)[:1], atol=1e-12, rtol=0)


def test_stochastic_depth_drops_both_branches(edges: Tensor, offsets: Tensor, x: Tensor) -> None:
    block = HexBlock(CHANNELS, mixer("attention", edges, offsets), drop_path=0.5).double()
    torch.manual_seed(9)
    results = [block(x) for _ in range(20)]
    kept = torch.stack([(r == x).all(2).all(1) for r in results])  # both branches dropped
    assert 0 < int(kept.sum()) < kept.numel()
    assert (block.eval()(x) != x).all()


def test_a_node_without_visible_neighbours_stays_finite(layer: GraphAttention) -> None:
    x = torch.randn(1, NODES, CHANNELS, dtype=torch.float64)
    assert torch.equal(layer(x, torch.zeros(1, NODES))[0], layer.bias.expand(NODES, -1))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_traces_with_a_free_batch_size(block: Any, x: Tensor, visible: Tensor) -> None:
    traced = torch.jit.trace(block, (x[:2], visible[:2]))
    more, shown = torch.cat([x, x[:2]]), torch.cat([visible, visible[:2]])
    assert torch.allclose(traced(more, shown), block(more, shown), atol=1e-12, rtol=0)
