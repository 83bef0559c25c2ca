"""Positions of the face tokens: formulas, what attention can tell apart, and what it cannot."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from xec.detector.channels import FACE_IDS, Face
from xec.detector.geometry import parametric
from xec.models.fusion import Fusion
from xec.models.positions import (
    DISTANCE_UNIT,
    LENGTH_MAX,
    LENGTH_MIN,
    DistanceBias,
    GeometricPositions,
    LearnablePositions,
    PositionKind,
    RotaryPositions,
    SinusoidalPositions,
)

FACES = list(Face)
T = len(FACES)
KINDS = get_args(PositionKind)


@pytest.fixture(scope="module")
def centroids() -> Tensor:
    position = parametric().position
    return torch.tensor([position[FACE_IDS[face]].mean(0).tolist() for face in FACES]).double()


# The specification's sketch: inner and outer are both "the cylinder's centre".
SKETCH = torch.tensor(
    [[0, 0, 0], [0, 0, 0], [0, 0, -0.5], [0, 0, 0.5], [0, 0.5, 0], [0, -0.5, 0]]
).double()


def randomised(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def tokens(batch: int, width: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, T, width, generator=generator, dtype=torch.float64)


def lengths(count: int) -> list[float]:
    return [LENGTH_MIN * (LENGTH_MAX / LENGTH_MIN) ** ((i + 0.5) / count) for i in range(count)]


def test_learnable_codes_are_added_and_learned() -> None:
    layer = LearnablePositions(T, 512)
    assert layer.code.std().item() == pytest.approx(0.02, rel=0.1)
    layer(torch.zeros(2, T, 512)).sum().backward()
    assert layer.code.grad is not None
    assert (layer.code.grad == 2).all()


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoidal_code_is_that_of_vaswani(width: int) -> None:
    code = SinusoidalPositions(T, width).double()(torch.zeros(1, T, width).double())[0]
    for position, channel in itertools.product(range(T), range(width)):
        angle = position / 10000 ** (channel // 2 * 2 / width)
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        assert code[position, channel].item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("width", [6, 16, 128])
def test_geometric_code_is_sines_and_cosines_of_the_coordinates(
    width: int, centroids: Tensor
) -> None:
    code = GeometricPositions(centroids, width)(torch.zeros(1, T, width).double())[0]
    count = width // 6
    for t in range(T):
        phases = [c / length for c in centroids[t].tolist() for length in lengths(count)]
        expected = [*map(math.sin, phases), *map(math.cos, phases), *[0.0] * (width % 6)]
        assert code[t].tolist() == pytest.approx(expected, abs=1e-12)


def smallest_difference(code: Tensor) -> float:
    return min(float((a - b).norm()) for a, b in itertools.combinations(code, 2))


def test_no_two_faces_share_a_geometric_code(centroids: Tensor) -> None:
    for width in (6, 16, 128):
        assert smallest_difference(GeometricPositions(centroids, width).code) > 0.4
    # Negative control: with every face on the axis, inner and outer would.
    assert smallest_difference(GeometricPositions(SKETCH, 128).code) == 0.0


def scores(rotary: RotaryPositions, seed: int = 0) -> Tensor:
    """Scores (heads, T, T) of the same query and key at every place."""
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 2, 1, 20, generator=generator, dtype=torch.float64)
    q, k = rotary(q.expand(1, 2, T, 20)), rotary(k.expand(1, 2, T, 20))
    return (q @ k.transpose(-2, -1))[0]


def test_rotary_scores_depend_on_differences_of_places_only(centroids: Tensor) -> None:
    here = scores(RotaryPositions(centroids, 20))
    moved = centroids + torch.tensor([31.0, -17.0, 55.0]).double()
    assert (here - scores(RotaryPositions(moved, 20))).abs().max() < 1e-12
    assert torch.allclose(torch.diagonal(here, dim1=1, dim2=2), here[:, :1, 0], atol=1e-12)
    stretched = scores(RotaryPositions(1.2 * centroids, 20))
    assert (here - stretched).abs().max() > 0.1


def test_rotating_queries_alone_would_depend_on_places(centroids: Tensor) -> None:
    """Negative control."""
    q = tokens(1, 20).unsqueeze(1)
    moved = centroids + 31.0
    here, there = RotaryPositions(centroids, 20)(q), RotaryPositions(moved, 20)(q)
    assert ((here - there) @ q.transpose(-2, -1)).abs().max() > 0.1


def test_rotary_is_multiplication_by_phases(centroids: Tensor) -> None:
    """d = 20: three axes of three pairs, and two channels that stay as they are."""
    x = tokens(2, 20).unsqueeze(1)
    turned = RotaryPositions(centroids, 20)(x)
    angle = torch.stack([centroids[:, a] / length for a in range(3) for length in lengths(3)], 1)
    phase = torch.polar(torch.ones_like(angle), angle)
    product = torch.complex(x[..., :9], x[..., 9:18]) * phase
    assert (torch.complex(turned[..., :9], turned[..., 9:18]) - product).abs().max() < 1e-12
    assert torch.equal(turned[..., 18:], x[..., 18:])
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-12)


def test_distance_bias_follows_its_formula(centroids: Tensor) -> None:
    bias = DistanceBias(centroids, 4)()
    assert bias.shape == (4, T, T)
    for h, slope in enumerate([1 / 4, 1 / 16, 1 / 64, 1 / 256]):
        for i, j in itertools.product(range(T), repeat=2):
            distance = math.dist(centroids[i].tolist(), centroids[j].tolist())
            assert bias[h, i, j].item() == pytest.approx(-slope * distance / DISTANCE_UNIT)
    assert torch.equal(bias, bias.transpose(1, 2))


def test_too_few_channels_for_three_axes_are_refused(centroids: Tensor) -> None:
    with pytest.raises(ValueError, match="5 channels are too few"):
        GeometricPositions(centroids, 5)
    with pytest.raises(ValueError, match="4 channels are too few"):
        RotaryPositions(centroids, 4)


def fusion(centroids: Tensor, kind: PositionKind) -> Any:
    return randomised(Fusion(centroids, 16, 2, 32, 2, kind))


def exchange_error(network: Any, first: Face, second: Face) -> float:
    """How far exchanging two tokens is from exchanging their results."""
    order = list(range(T))
    i, j = FACES.index(first), FACES.index(second)
    order[i], order[j] = j, i
    x = tokens(2, 16)
    with torch.no_grad():
        return float((network(x)[:, order] - network(x[:, order])).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_position_tells_the_faces_apart(centroids: Tensor, kind: Any) -> None:
    network = fusion(centroids, kind)
    assert exchange_error(network, Face.INNER, Face.OUTER) > 1e-4
    assert exchange_error(network, Face.INNER, Face.US) > 1e-4


def test_without_positions_no_face_is_told_apart(centroids: Tensor) -> None:
    """Negative control: attention alone is equivariant under permutations."""
    network = fusion(centroids, "learnable")
    network.positions = nn.Identity()
    assert exchange_error(network, Face.INNER, Face.OUTER) < 1e-12
    assert exchange_error(network, Face.INNER, Face.US) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_only_distances_leave_mirror_images_alike(centroids: Tensor, kind: Any) -> None:
    """A known weakness of "alibi": us and ds are equally far from every other face."""
    error = exchange_error(fusion(centroids, kind), Face.US, Face.DS)
    assert (error < 1e-12) == (kind == "alibi")
    assert error < 1e-12 or error > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_only_learnable_positions_are_stored(centroids: Tensor, kind: Any) -> None:
    names = set(Fusion(centroids, 16, 2, 32, 1, kind).state_dict())
    assert ("positions.code" in names) == (kind == "learnable")
    assert not any("rotary" in name or "bias.bias" in name for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_events_do_not_see_each_other(centroids: Tensor, kind: Any) -> None:
    network, x = fusion(centroids, kind), tokens(3, 16)
    assert torch.allclose(network(x[:1]), network(x)[:1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_traces_with_a_free_batch_size(centroids: Tensor, kind: Any) -> None:
    network = fusion(centroids, kind)
    traced = torch.jit.trace(network, (tokens(2, 16),))
    more = tokens(5, 16, seed=9)
    assert torch.allclose(traced(more), network(more), atol=1e-12, rtol=0)


def test_unknown_positions_are_refused(centroids: Tensor) -> None:
    with pytest.raises(ValueError, match="no 'rotray' positions"):
        Fusion(centroids, 16, 2, 32, 1, "rotray")  # type: ignore[arg-type]


def test_drop_path_rises_to_the_last_layer(centroids: Tensor) -> None:
    network = Fusion(centroids, 16, 2, 32, 3, drop_path=0.4)
    assert [layer.drop_path.rate for layer in network.layers] == pytest.approx([0.0, 0.2, 0.4])
    with torch.no_grad():
        network.layers[2].drop_path.rate = 1.0 - 1e-9  # surely dropped
    torch.manual_seed(0)
    x = tokens(4, 16).float()
    before = x
    for layer in network.layers[:2].eval():
        before = layer(before)
    assert torch.equal(network.layers[2].train()(before), before)
