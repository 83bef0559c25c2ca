"""Every option of the network: it builds, learns, keeps the invariances, and can be inserted."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from xec.detector.channels import FACE_IDS, N_CHANNELS, Face
from xec.detector.geometry import parametric
from xec.errors import ModelError
from xec.models.build import (
    GraphMixer,
    ModelConfig,
    build_autoencoder,
    build_reconstructor,
    config_as_dict,
    config_from_dict,
    preset,
)
from xec.models.faces import GridFace
from xec.models.frontend import npho_of_root, npho_per_root
from xec.models.noise import ReadingNoise
from xec.models.positions import GeometricPositions, PositionKind
from xec.models.reconstructor import Prediction, Reconstructor
from xec.models.stage import AttentionKind, GridAttention, Placement
from xec.models.transfer import hand_over

TINY = preset("tiny")
ATTENTION = {
    f"{kind}-{placement}": replace(TINY, attention=GridAttention(kind, placement))
    for kind, placement in product(get_args(AttentionKind), get_args(Placement))
    if kind != "none"
}
OPTIONS: dict[str, ModelConfig] = {
    "plain": TINY,
    **ATTENTION,
    **{kind: replace(TINY, positions=kind) for kind in get_args(PositionKind)},
    **{mixer: replace(TINY, graph_mixer=mixer) for mixer in get_args(GraphMixer)},
    **{f"spread {kind}": replace(TINY, spread=kind) for kind in ("shared", "separate")},
    "noise floor": replace(TINY, noise_floor=True),
    "drop path": replace(TINY, drop_path=0.5),
}


def inputs(B: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(6)
    npho = torch.rand(B, N_CHANNELS, generator=rng) ** 6 * 2000.0
    time = torch.rand(B, N_CHANNELS, generator=rng) * 4.0
    valid = torch.rand(B, N_CHANNELS, generator=rng) > 0.1
    return npho, time, valid, valid & (npho > 100.0)


def woken(network: nn.Module) -> nn.Module:
    """Weights that start at zero are given values, so that everything matters."""
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim and not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=rng))
    return network


def build(config: ModelConfig, seed: int = 0) -> Reconstructor:
    torch.manual_seed(seed)
    network = woken(build_reconstructor(config, parametric()))
    assert isinstance(network, Reconstructor)
    return network


def values(prediction: Prediction) -> list[Tensor]:
    return [v for v in prediction if v is not None]


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_every_parameter_of_every_option_learns(config: ModelConfig) -> None:
    network = build(config)
    torch.manual_seed(1)
    torch.stack([v.square().mean() for v in values(network.predict(*inputs()))]).sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # The means of an encoder that only the spreads see are read by nobody; and a softmax does not
    # see a constant, so that the bias of a pool's scores has a gradient by rounding alone.
    expected = ("spread_encoder.", "pool.score.bias")
    assert [n for n in idle if not n.startswith(expected[0]) and not n.endswith(expected[1])] == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_the_value_of_a_dead_sensor_changes_nothing(config: ModelConfig) -> None:
    network = build(config).eval()
    npho, time, valid, timed = inputs(2)
    before = network(npho, time, valid, timed)
    dirty = network(
        npho.masked_fill(~valid, torch.nan), time.masked_fill(~timed, 1.0e10), valid, timed
    )
    for name, tensor in before.items():
        assert torch.equal(tensor, dirty[name]), name


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_an_option_is_independent_of_batch_mates(config: ModelConfig) -> None:
    network = build(config).double().eval()
    case = tuple(x.double() if x.is_floating_point() else x for x in inputs(3))
    whole, alone = network(*case), network(*(x[:1] for x in case))
    for name, tensor in whole.items():
        assert (tensor[:1] - alone[name]).abs().max() < 1e-9, name


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)
def test_a_configuration_comes_back_from_json(config: ModelConfig) -> None:
    assert config_from_dict(config_as_dict(config)) == config


def gradients_of_spreads(config: ModelConfig) -> set[str]:
    """Parameters that a loss of the spreads alone reaches."""
    network = build(config)
    prediction = network.predict(*inputs())
    spreads = [v for n, v in prediction._asdict().items() if n.endswith("_log_sigma")]
    torch.stack([s.square().mean() for s in spreads]).sum().backward()
    return {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}


def in_mean_path(names: set[str]) -> set[str]:
    return {n for n in names if not any(part.startswith("spread") for part in n.split("."))}


def test_a_detached_spread_reaches_its_own_path_only() -> None:
    assert in_mean_path(gradients_of_spreads(replace(TINY, noise_floor=True))) == set()


def test_a_separate_spread_has_an_encoder_of_its_own() -> None:
    reached = gradients_of_spreads(replace(TINY, spread="separate"))
    assert in_mean_path(reached) == set()
    assert any(name.startswith("spread_encoder.") for name in reached)


def test_a_shared_spread_reaches_the_encoder() -> None:
    """Control: what the faithful loss must not do (METHODS L2)."""
    reached = gradients_of_spreads(replace(TINY, spread="shared"))
    assert any(name.startswith("encoder.") for name in in_mean_path(reached))


@torch.no_grad()
def test_the_noise_of_a_reading_is_a_floor_of_its_spread() -> None:
    network = build(replace(TINY, noise_floor=True)).eval()
    prediction = network.predict(*inputs())
    noise = prediction.root_noise
    assert noise is not None
    sigma = prediction.root_log_sigma.exp()
    assert (sigma.square() >= noise * (1 - 1e-5)).all()
    light = npho_of_root(prediction.root)
    variance = ReadingNoise()(light) / npho_per_root(prediction.root).square()
    assert torch.allclose(noise, variance, rtol=1e-4)
    assert build(TINY).predict(*inputs(1)).root_noise is None


def test_the_noise_follows_its_formula() -> None:
    noise = ReadingNoise()
    light = torch.full((1, N_CHANNELS), 400.0)
    variance = noise(light)[0]
    mppc = 1.3 / 0.12 * 400.0 + (0.5 / 0.12) ** 2 + (0.015 * 400.0) ** 2
    pmt = 1.2 / 0.16 * 400.0 + (0.5 / 0.16) ** 2 + (0.015 * 400.0) ** 2
    assert variance[0].item() == pytest.approx(mppc, rel=1e-5)
    assert variance[4500].item() == pytest.approx(pmt, rel=1e-5)
    assert variance.unique().numel() == 2


@torch.no_grad()
def test_a_pretrained_encoder_is_handed_over_bit_for_bit() -> None:
    torch.manual_seed(1)
    pretrained = woken(build_autoencoder(TINY, parametric()))
    network = build(TINY, seed=2)
    done = hand_over(pretrained.state_dict(), "pretrain", network)
    state = network.state_dict()
    encoder = {n: v for n, v in pretrained.state_dict().items() if n.startswith("encoder.")}
    assert done.taken == len(encoder) > 100
    assert all(torch.equal(state[name], value) for name, value in encoder.items())
    assert all(not name.startswith("encoder.") for name in done.fresh)


@torch.no_grad()
def test_an_encoder_of_the_spreads_starts_from_the_pretrained_one_too() -> None:
    pretrained = woken(build_autoencoder(TINY, parametric())).state_dict()
    network = build(replace(TINY, spread="separate"))
    hand_over(pretrained, "pretrain", network)
    name = "groups.0.network.stem.weight"
    assert torch.equal(
        network.state_dict()[f"spread_encoder.{name}"], pretrained[f"encoder.{name}"]
    )


@pytest.mark.parametrize("config", ATTENTION.values(), ids=ATTENTION)
@torch.no_grad()
def test_attention_is_inserted_into_an_inpainter_as_the_identity(config: ModelConfig) -> None:
    plain = build(TINY)
    torch.manual_seed(9)
    network = build_reconstructor(config, parametric())
    done = hand_over(plain.state_dict(), "inpaint", network)
    assert (len(done.fresh) > 0) == (config.attention.placement != "none")
    before, after = plain.eval()(*inputs(2)), network.eval()(*inputs(2))
    for name, tensor in before.items():
        assert torch.allclose(after[name], tensor, rtol=1e-6, atol=1e-6), name


def test_a_checkpoint_of_another_size_is_refused_by_name() -> None:
    state = build_autoencoder(preset("small"), parametric()).state_dict()
    with pytest.raises(ModelError, match=r"another size: encoder\..* use the same model.preset"):
        hand_over(state, "pretrain", build(TINY))


def test_a_checkpoint_of_another_graph_mixer_is_refused() -> None:
    state = build_autoencoder(TINY, parametric()).state_dict()
    with pytest.raises(ModelError, match="another kind of network"):
        hand_over(state, "pretrain", build(replace(TINY, graph_mixer="hexagonal")))


@pytest.mark.parametrize("kind", ["se", "cbam"])
def test_attention_sits_in_the_last_block_or_in_every_one(kind: AttentionKind) -> None:
    config = replace(preset("small"), attention=GridAttention(kind, "last"))
    for group in build_reconstructor(config, parametric()).encoder.face_groups:
        face = group.network
        if isinstance(face, GridFace):
            assert [block.gate is not None for block in face.fine.blocks] == [False] * len(
                face.fine.blocks
            )
            last = [block.gate is not None for block in face.coarse.blocks]
            assert last == [False] * (len(last) - 1) + [True]
    config = replace(preset("small"), attention=GridAttention(kind, "every"))
    face = build_reconstructor(config, parametric()).encoder.face_groups[0].network
    assert all(b.gate is not None for b in (*face.fine.blocks, *face.coarse.blocks))


def test_tokens_know_their_own_faces_place() -> None:
    """Geometric codes, token by token, against those of each face's mean position."""
    geometry = parametric()
    encoder = build_reconstructor(replace(TINY, positions="geometric"), geometry).encoder
    faces = [face for group in encoder.face_groups for face in group.faces]
    assert sorted(faces) == sorted(Face)
    tokens = torch.zeros(1, len(faces), TINY.width)
    found = encoder.fusion.positions(tokens)[0]
    for row, face in enumerate(faces):
        centre = torch.tensor(geometry.position[FACE_IDS[face]].mean(0), dtype=torch.float32)
        alone = GeometricPositions(centre[None], TINY.width)
        assert torch.allclose(found[row], alone(tokens[:, :1])[0, 0], atol=1e-6), face
