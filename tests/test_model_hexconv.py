"""Hexagonal depthwise convolution: directions, a slow reference, hidden nodes, the parity rule."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xec.detector.adjacency import HEXAGONAL_RADIUS, edge_offsets, face_edges
from xec.detector.channels import HEXAGONAL_ROWS, TOP_IDS, Face
from xec.detector.geometry import Geometry, parametric
from xec.models.hexconv import SECTORS, TAPS, HexDepthwise, sectors

NODES, CHANNELS = 73, 4
GEOMETRY = parametric()


def offsets_of(edges: Tensor, geometry: Geometry = GEOMETRY, face: Face = Face.TOP) -> Tensor:
    return torch.tensor(edge_offsets(geometry, face, edges.numpy())[:, :2] / 7.0)


@pytest.fixture(scope="module")
def edges() -> Tensor:
    return torch.from_numpy(face_edges(GEOMETRY, Face.TOP, HEXAGONAL_RADIUS))


@pytest.fixture
def layer(edges: Tensor) -> HexDepthwise:
    torch.manual_seed(1)
    return HexDepthwise(CHANNELS, edges, offsets_of(edges), NODES).double()


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


def row_of(node: int) -> int:
    return next(r for r in range(6) if node < sum(HEXAGONAL_ROWS[: r + 1]))


def direction(node: int, other: int) -> int:
    """Direction of a neighbour from row numbers and the sign of dz, not from angles."""
    z = GEOMETRY.position[TOP_IDS, 2]
    row, forward = row_of(other) - row_of(node), bool(z[other] > z[node])
    order = [(0, True), (1, True), (1, False), (0, False), (-1, False), (-1, True)]
    return order.index((row, forward))


def reference(layer: HexDepthwise, x: Tensor, seen: set[int]) -> Tensor:
    """One event (N, C), node by node, over neighbours found by their distance."""
    position = torch.tensor(GEOMETRY.position[TOP_IDS])
    result = torch.zeros_like(x)
    for node in seen:
        y = layer.bias + layer.weight[SECTORS] * x[node]
        for other in seen - {node}:
            if (position[node] - position[other]).norm() < HEXAGONAL_RADIUS:
                y = y + layer.weight[direction(node, other)] * x[other]
        result[node] = y
    return result


def test_equals_the_slow_reference(layer: HexDepthwise, x: Tensor, visible: Tensor) -> None:
    dense, sparse = layer(x), layer(x, visible)
    for b in range(3):
        assert (dense[b] - reference(layer, x[b], set(range(NODES)))).abs().max() < 1e-12
        seen = set(visible[b].nonzero().ravel().tolist())
        assert (sparse[b] - reference(layer, x[b], seen)).abs().max() < 1e-12


@pytest.mark.parametrize("face", [Face.TOP, Face.BOTTOM])
def test_no_node_has_two_neighbours_in_one_direction(face: Face) -> None:
    edges = torch.from_numpy(face_edges(GEOMETRY, face, HEXAGONAL_RADIUS))
    direction = sectors(-offsets_of(edges, face=face))
    taken = Counter(zip(edges[1].tolist(), direction.tolist(), strict=True))
    assert set(taken.values()) == {1}
    # Rows have 67 pairs of neighbours, and 116 pairs stand in neighbouring rows, half to each side.
    assert Counter(direction.tolist()) == {0: 67, 1: 58, 2: 58, 3: 67, 4: 58, 5: 58}


def test_opposite_directions_are_three_sectors_apart(edges: Tensor) -> None:
    there, back = sectors(offsets_of(edges)), sectors(-offsets_of(edges))
    assert torch.equal((there + 3) % SECTORS, back)


def test_table_holds_every_edge_once_and_every_node(layer: HexDepthwise, edges: Tensor) -> None:
    table, used = layer.table, layer.used[..., 0]
    found = {(int(table[n, t]), n) for n in range(NODES) for t in range(SECTORS) if used[n, t]}
    assert found == {(int(s), int(t)) for s, t in edges.T}
    assert table[:, SECTORS].tolist() == list(range(NODES))
    assert table.shape == (NODES, TAPS)


def parity_edges() -> Tensor:
    """Neighbours by the usual rule for rows that alternate: the row's parity decides the side."""
    start = [sum(HEXAGONAL_ROWS[:r]) for r in range(6)]
    edges = []
    for r in range(6):
        for c in range(HEXAGONAL_ROWS[r]):
            shift = 0 if r % 2 == 0 else -1
            wanted = [(r, c + 1), (r + 1, c + shift), (r + 1, c + shift + 1)]
            for row, column in wanted:
                if row < 6 and 0 <= column < HEXAGONAL_ROWS[row]:
                    pair = (start[r] + c, start[row] + column)
                    edges += [pair, pair[::-1]]
    return torch.tensor(edges).T


def test_the_parity_rule_gives_a_direction_twice(edges: Tensor) -> None:
    """Negative control: the rows keep growing, and the rule joins the wrong sensors."""
    wrong = parity_edges()
    pairs = {(int(s), int(t)) for s, t in wrong.T}
    right = {(int(s), int(t)) for s, t in edges.T}
    below = {(s, t) for s, t in right if max(row_of(s), row_of(t)) < 4}
    assert {(s, t) for s, t in pairs if max(row_of(s), row_of(t)) < 4} == below
    assert pairs != right
    with pytest.raises(ValueError, match="two neighbours in direction"):
        HexDepthwise(CHANNELS, wrong, offsets_of(wrong), NODES)


def test_directions_survive_a_survey(edges: Tensor) -> None:
    """Sensors up to 1 cm from their ideal place keep their directions."""
    generator = torch.Generator().manual_seed(3)
    step = torch.rand(GEOMETRY.position.shape, generator=generator).numpy() - 0.5
    moved = Geometry(GEOMETRY.position + step, GEOMETRY.normal)
    assert torch.equal(sectors(offsets_of(edges, moved)), sectors(offsets_of(edges)))


def test_exchanging_two_neighbours_changes_the_node(
    layer: HexDepthwise, x: Tensor, edges: Tensor
) -> None:
    centre = 40
    neighbours = edges[0][edges[1] == centre].tolist()
    assert len(neighbours) == 6
    exchanged = x.clone()
    exchanged[:, neighbours] = x[:, neighbours[1:] + neighbours[:1]]
    assert (layer(x) - layer(exchanged))[:, centre].abs().max() > 1e-2
    with torch.no_grad():  # negative control: equal weights have no direction
        layer.weight[:SECTORS] = layer.weight[0].clone()
    assert (layer(x) - layer(exchanged))[:, centre].abs().max() < 1e-12


def test_hidden_nodes_change_nothing_stay_zero_and_have_no_gradient(
    layer: Any, x: Tensor, visible: Tensor
) -> None:
    x.requires_grad_()
    result = layer(x, visible)
    hidden = visible == 0
    assert (result[hidden] == 0).all()
    assert torch.equal(result, layer(torch.where(hidden.unsqueeze(-1), 1e3, x), visible))
    gradient = torch.autograd.grad(result.square().sum(), x)[0]
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] != 0).all()


def test_events_do_not_see_each_other(layer: Any, x: Tensor, visible: Tensor) -> None:
    alone = layer(x[:1], visible[:1])
    assert torch.allclose(alone, layer(x, visible)[:1], atol=1e-12, rtol=0)


def test_starts_as_a_depthwise_convolution_does(edges: Tensor) -> None:
    torch.manual_seed(0)
    ours = HexDepthwise(512, edges, offsets_of(edges), NODES).weight
    theirs = nn.Conv1d(512, 512, TAPS, groups=512).weight
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)
    assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.01)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_traces_with_a_free_batch_size(layer: Any, x: Tensor, visible: Tensor) -> None:
    traced = torch.jit.trace(layer, (x[:2], visible[:2]))
    more, shown = torch.cat([x, x[:2]]), torch.cat([visible, visible[:2]])
    assert torch.allclose(traced(more, shown), layer(more, shown), atol=1e-12, rtol=0)
