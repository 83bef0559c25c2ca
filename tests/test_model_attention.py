"""Self-attention and pooling: PyTorch's own layers, visible subsets, and export of every mixer."""

from __future__ import annotations

import copy
import io
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
from xec.models.attention import AttentionPool, SelfAttention
from xec.models.channel_attention import Cbam, SqueezeExcite
from xec.models.fusion import Fusion, FusionLayer
from xec.models.hexconv import HexDepthwise
from xec.models.hexgat import GraphAttention, HexBlock
from xec.models.nonlocal_attention import NonLocal
from xec.models.positions import DistanceBias, RotaryPositions

WIDTH, HEADS, N, CHANNELS = 24, 3, 13, 5
CENTROIDS = torch.tensor(
    [[-53, 0, 0], [-88, 0, 0], [-70, 0, -41], [-70, 0, 41], [-40, 77, 0], [-40, -77, 0]]
).double()
T = len(CENTROIDS)


def randomised(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def random(*shape: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def pool() -> Any:
    return randomised(AttentionPool(CHANNELS, 4, 7, random(N, 2, seed=8)))


@pytest.fixture
def visible() -> Tensor:
    """Two events with hidden cells and one with nothing else."""
    shown = torch.rand(3, N, generator=torch.Generator().manual_seed(4)) > 0.6
    shown[2] = False
    return shown.double()


@pytest.mark.parametrize("kind", ["plain", "rotary", "alibi"])
def test_attention_is_that_of_pytorch(kind: str) -> None:
    rotary = RotaryPositions(CENTROIDS, WIDTH // HEADS) if kind == "rotary" else None
    bias = DistanceBias(CENTROIDS, HEADS) if kind == "alibi" else None
    ours = randomised(SelfAttention(WIDTH, HEADS, rotary, bias))
    x = random(2, T, WIDTH)
    q, k, v = (
        part.reshape(2, T, HEADS, -1).transpose(1, 2) for part in ours.qkv(x).chunk(3, dim=-1)
    )
    if rotary is not None:
        q, k = rotary(q), rotary(k)
    mask = None if bias is None else bias()
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    expected = ours.out(mixed.transpose(1, 2).flatten(2))
    assert (ours(x) - expected).abs().max() < 1e-12
    if kind != "plain":  # positions that do nothing would pass, too
        ours.rotary = ours.bias = None
        assert (ours(x) - expected).abs().max() > 1e-3


def test_layer_is_that_of_pytorch() -> None:
    ours = randomised(FusionLayer(WIDTH, SelfAttention(WIDTH, HEADS), 40))
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 40, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    attention = theirs.self_attn
    attention.load_state_dict(
        {
            "in_proj_weight": ours.attention.qkv.weight,
            "in_proj_bias": ours.attention.qkv.bias,
            "out_proj.weight": ours.attention.out.weight,
            "out_proj.bias": ours.attention.out.bias,
        }
    )
    for mine, other in (
        (ours.norm_attention, theirs.norm1),
        (ours.norm_mlp, theirs.norm2),
        (ours.expand, theirs.linear1),
        (ours.project, theirs.linear2),
    ):
        other.load_state_dict(mine.state_dict())
    x = random(2, T, WIDTH)
    assert (ours(x) - theirs(x)).abs().max() < 1e-12
    theirs.norm_first = False  # negative control: the comparison sees where the norm is
    assert (ours(x) - theirs(x)).abs().max() > 1e-2


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 10 is not a multiple of 3 heads"):
        SelfAttention(10, 3)


def slow_token(pool: Any, x: Tensor, position: Tensor) -> Tensor:
    """Token (D,) of the cells (N, C) of one event, query by query."""
    y = pool.norm(x)
    content, place = [], []
    for query, offset in zip(pool.score.weight, pool.score.bias, strict=True):
        light = torch.exp(y @ query + offset)
        content.append((light @ y) / light.sum())
        place.append((light @ position) / light.sum())
    return pool.token(torch.cat([*content, *place, y.mean(0)]))


def test_pooling_follows_its_formula(pool: Any) -> None:
    x = random(2, N, CHANNELS)
    expected = torch.stack([slow_token(pool, cells, pool.position) for cells in x])
    assert (pool(x) - expected).abs().max() < 1e-12


def test_pooling_with_visibility_pools_the_visible_cells_alone(pool: Any, visible: Tensor) -> None:
    x = random(3, N, CHANNELS)
    result = pool(x, visible)
    for b in range(2):
        shown = visible[b] > 0
        assert 0 < int(shown.sum()) < N
        expected = slow_token(pool, x[b, shown], pool.position[shown])
        assert (result[b] - expected).abs().max() < 1e-12
    assert torch.equal(result[2], pool.token.bias)  # nothing visible: no content
    assert torch.allclose(pool(x, torch.ones(3, N)), pool(x), atol=1e-12, rtol=0)


def gradients(pool: Any, x: Tensor, visible: Tensor | None) -> Tensor:
    """Size (D, B, N) of the gradient of each pooled output with respect to each cell."""
    x = x.clone().requires_grad_()
    token = pool(x, visible)
    rows = [torch.autograd.grad(t.sum(), x, retain_graph=True)[0] for t in token.unbind(1)]
    return torch.stack(rows).abs().sum(-1)


def test_every_pooled_number_sees_every_visible_cell(pool: Any, visible: Tensor) -> None:
    x = random(3, N, CHANNELS)
    assert (gradients(pool, x, None) > 0).all()
    with_visibility = gradients(pool, x, visible)
    assert torch.equal(with_visibility > 0, (visible > 0).expand_as(with_visibility))


def test_a_maximum_would_not_see_every_cell(pool: Any) -> None:
    """Negative control: what METHODS M3 asks of pooling is not free."""
    assert (gradients(lambda x, _: x.amax(1), random(3, N, CHANNELS), None) == 0).any()


def test_hidden_cells_change_nothing(pool: Any, visible: Tensor) -> None:
    x = random(3, N, CHANNELS)
    other = torch.where(visible.unsqueeze(-1) > 0, x, 1e3 * random(3, N, CHANNELS, seed=5))
    assert torch.equal(pool(x, visible), pool(other, visible))
    assert not torch.allclose(pool(x), pool(other))


def test_a_dark_event_of_zeros_is_finite_and_has_no_gradient(pool: Any) -> None:
    x = torch.zeros(2, N, CHANNELS, dtype=torch.float64, requires_grad=True)
    token = pool(x, torch.zeros(2, N))
    assert torch.isfinite(token).all()
    assert (torch.autograd.grad(token.sum(), x)[0] == 0).all()


def test_events_do_not_see_each_other(pool: Any, visible: Tensor) -> None:
    x = random(3, N, CHANNELS)
    assert torch.allclose(pool(x[:1]), pool(x)[:1], atol=1e-12, rtol=0)
    alone = pool(x[:1], visible[:1])
    assert torch.allclose(alone, pool(x, visible)[:1], atol=1e-12, rtol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_traces_with_a_free_batch_size(pool: Any, visible: Tensor) -> None:
    x = random(5, N, CHANNELS)
    shown = torch.cat([visible, visible[:2]])
    dense, sparse = torch.jit.trace(pool, (x[:2],)), torch.jit.trace(pool, (x[:2], visible[:2]))
    assert torch.allclose(dense(x), pool(x), atol=1e-12, rtol=0)
    assert torch.allclose(sparse(x, shown), pool(x, shown), atol=1e-12, rtol=0)


class EveryMixer(nn.Module):
    """All mixers of the room side by side, dense and with visibility, for one export."""

    def __init__(self) -> None:
        super().__init__()
        edges = torch.from_numpy(face_edges(parametric(), Face.TOP, HEXAGONAL_RADIUS))
        offsets = torch.tensor(edge_offsets(parametric(), Face.TOP, edges.numpy())) / 7.0
        offsets = offsets.float()
        self.pool = AttentionPool(4, 2, 6, torch.rand(15, 2))
        centroids = CENTROIDS.float()
        kinds = ("learnable", "sinusoidal", "rotary", "alibi", "geometric")
        self.fusions = nn.ModuleList(Fusion(centroids, 12, 2, 8, 1, kind) for kind in kinds)
        self.gates = nn.ModuleList([SqueezeExcite(4), Cbam(4)])
        self.beyond = NonLocal(4)
        self.blocks = nn.ModuleList(
            HexBlock(4, mixer)
            for mixer in (
                GraphAttention(4, 2, edges, offsets, 73),
                HexDepthwise(4, edges, offsets, 73),
            )
        )

    def forward(
        self, grid: Tensor, shown: Tensor, tokens: Tensor, nodes: Tensor, seen: Tensor
    ) -> tuple[Tensor, ...]:
        cells = grid.permute(0, 2, 3, 1)
        last = shown.permute(0, 2, 3, 1)
        flat = cells.flatten(1, 2)
        return (
            *(fusion(tokens) for fusion in self.fusions),
            *(result for gate in self.gates for result in (gate(cells), gate(cells, last))),
            *(result for block in self.blocks for result in (block(nodes), block(nodes, seen))),
            *(self.beyond(grid), self.beyond(grid, shown)),
            *(self.pool(flat), self.pool(flat, shown.flatten(1))),
        )


def mixer_inputs(batch: int) -> tuple[Tensor, ...]:
    torch.manual_seed(batch)
    shown, seen = (torch.rand(batch, 1, 3, 5) > 0.5).float(), (torch.rand(batch, 73) > 0.5).float()
    shown[0], seen[0] = 0.0, 0.0  # one dark event
    return (
        torch.randn(batch, 4, 3, 5),
        shown,
        torch.randn(batch, 6, 12),
        torch.randn(batch, 73, 4),
        seen,
    )


@pytest.fixture(scope="module")
def every_mixer() -> EveryMixer:
    torch.manual_seed(0)
    network = EveryMixer()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("way", ["autocast", "cast"])
def test_every_mixer_runs_in_half_precision(way: str, every_mixer: EveryMixer) -> None:
    inputs = mixer_inputs(3)
    expected = every_mixer(*inputs)
    if way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            results = every_mixer(*inputs)
    else:
        network = copy.deepcopy(every_mixer).bfloat16()
        results = network(*(x.bfloat16() for x in inputs))
        assert {r.dtype for r in results} == {torch.bfloat16}
    for result, exact in zip(results, expected, strict=True):
        assert (result - exact).abs().max() < 0.05 * exact.abs().max()


def test_every_mixer_exports_to_onnx_with_a_free_batch_size(every_mixer: EveryMixer) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    batch = torch.export.Dim("batch", min=1, max=64)
    names = ["grid", "shown", "tokens", "nodes", "seen"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own libraries
        program = torch.onnx.export(
            every_mixer,
            mixer_inputs(2),
            dynamo=True,
            input_names=names,
            dynamic_shapes=tuple({0: batch} for _ in names),
            verbose=False,
        )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for size in (1, 5):
        inputs = mixer_inputs(size)
        answers = session.run(
            None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        )
        expected = every_mixer(*inputs)
        assert len(answers) == len(expected) == 17
        for answer, ours in zip(answers, expected, strict=True):
            np.testing.assert_allclose(answer, ours.numpy(), atol=1e-5)
