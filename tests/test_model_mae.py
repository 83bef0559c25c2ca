"""The masked autoencoder: exactly sparse, blind to what is masked, and finite when all is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xec.detector.channels import FACE_IDS, N_CHANNELS, Face
from xec.detector.geometry import parametric
from xec.models.build import ModelConfig, build_autoencoder, preset
from xec.models.faces import GridFace
from xec.models.mae import MaskedAutoencoder

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def randomised(network: nn.Module) -> nn.Module:
    """Random weights everywhere, biases and GRN included, in float64."""
    generator = torch.Generator().manual_seed(2)
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.fixture(scope="module", params=["tiny", "small"])
def autoencoder(request: pytest.FixtureRequest) -> MaskedAutoencoder:
    torch.manual_seed(0)
    network = randomised(build_autoencoder(preset(request.param), parametric()))
    assert isinstance(network, MaskedAutoencoder)
    return network


def events(B: int = 2, hidden: float = 0.6) -> Inputs:
    rng = torch.Generator().manual_seed(4)
    npho = torch.rand(B, N_CHANNELS, generator=rng, dtype=torch.float64) ** 6 * 2000.0
    time = torch.rand(B, N_CHANNELS, generator=rng, dtype=torch.float64) * 4.0
    visible = torch.rand(B, N_CHANNELS, generator=rng) >= hidden
    return npho, time, visible, visible & (npho > 100.0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0e3, 1.0e10, torch.nan])
@torch.no_grad()
def test_the_stored_value_of_a_masked_sensor_changes_nothing(
    autoencoder: MaskedAutoencoder, value: float
) -> None:
    npho, time, visible, timed = events()
    before = autoencoder(npho, time, visible, timed)
    after = autoencoder(
        npho.masked_fill(~visible, value), time.masked_fill(~timed, value), visible, timed
    )
    for name, tensor in before._asdict().items():
        assert torch.equal(tensor, getattr(after, name)), name


@torch.no_grad()
def test_a_visible_value_does_change_the_answer(autoencoder: MaskedAutoencoder) -> None:
    """Control of the test above."""
    npho, time, visible, timed = events()
    before = autoencoder(npho, time, visible, timed).root
    channel = int(visible[0].nonzero()[7])
    npho[0, channel] += 500.0
    assert not torch.equal(autoencoder(npho, time, visible, timed).root, before)


@torch.no_grad()
def test_events_do_not_know_their_batch_mates(autoencoder: MaskedAutoencoder) -> None:
    inputs = events(3)
    whole = autoencoder(*inputs)
    alone = autoencoder(*(x[:1] for x in inputs))
    for name, tensor in whole._asdict().items():
        assert (tensor[:1] - getattr(alone, name)).abs().max() < 1e-10, name


def test_hidden_cells_are_zero_and_hidden_sensors_have_no_gradient(
    autoencoder: MaskedAutoencoder,
) -> None:
    npho, time, visible, timed = events()
    npho.requires_grad_()
    encoded = autoencoder.encoder(npho, time, visible, timed, visible.double())
    total = torch.zeros((), dtype=torch.float64)
    for cells in encoded.cells:
        for x, v in ((cells.fine, cells.fine_visible), (cells.coarse, cells.coarse_visible)):
            assert v is not None
            shown = v if x.ndim == 4 else v.unsqueeze(-1)
            assert not (x * (1.0 - shown)).any()
            assert x.any()
            total = total + x.square().sum()
    (total + encoded.tokens.square().sum()).backward()
    assert npho.grad is not None
    assert not npho.grad[~visible].any()
    assert npho.grad[visible].any()


@torch.no_grad()
def test_with_everything_visible_the_encoder_is_the_dense_one(
    autoencoder: MaskedAutoencoder,
) -> None:
    npho, time, _, _ = events()
    alive = torch.ones(npho.shape, dtype=torch.bool)
    timed = npho > 100.0
    sparse = autoencoder.encoder(npho, time, alive, timed, alive.double())
    dense = autoencoder.encoder(npho, time, alive, timed)
    assert (sparse.tokens - dense.tokens).abs().max() < 1e-10
    for a, b in zip(sparse.features, dense.features, strict=True):
        assert (a - b).abs().max() < 1e-10


@torch.no_grad()
def test_masking_and_marking_as_dead_are_not_the_same(autoencoder: MaskedAutoencoder) -> None:
    """Control: with hidden sensors, sparse and dense encoders differ; that is what masks do."""
    inputs = events()
    sparse = autoencoder.encoder(*inputs, inputs[2].double())
    dense = autoencoder.encoder(*inputs)
    assert (sparse.tokens - dense.tokens).abs().max() > 1e-3


@pytest.mark.parametrize("faces", [[face] for face in Face] + [list(Face)], ids=str)
def test_faces_that_are_all_masked_stay_finite(
    autoencoder: MaskedAutoencoder, faces: list[Face]
) -> None:
    npho, time, visible, timed = events(1)
    for face in faces:
        visible[:, torch.from_numpy(FACE_IDS[face].copy())] = False
    autoencoder.zero_grad()
    prediction = autoencoder(npho, time, visible, timed & visible)
    for name, tensor in prediction._asdict().items():
        assert torch.isfinite(tensor).all(), name
    prediction.root.square().mean().backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    autoencoder.zero_grad()


def grid(config: ModelConfig) -> GridFace:
    network = build_autoencoder(config, parametric()).encoder.face_groups[0].network
    assert isinstance(network, GridFace)
    return network


@torch.no_grad()
def test_at_sixty_per_cent_thirteen_per_cent_of_the_coarse_cells_are_masked() -> None:
    """0.6^4: a coarse cell is hidden only if all of its four cells are (METHODS M2)."""
    face = grid(preset("base"))
    rng = torch.Generator().manual_seed(0)
    visible = (torch.rand(40, 1, 93, 44, generator=rng) >= 0.6).float()
    _, coarse = face.down(torch.zeros(40, 32, 93, 44), visible)
    hidden = 1.0 - coarse[:, :, :46].mean().item()  # the last row is half padding
    assert hidden == pytest.approx(0.6**4, abs=0.005)


def test_every_weight_of_the_autoencoder_is_trained() -> None:
    torch.manual_seed(1)
    network = build_autoencoder(preset("tiny"), parametric())
    inputs = events(4)
    prediction = network(*(x.float() if x.is_floating_point() else x for x in inputs))
    # The heads start at zero, so that what is before them first learns in the second step.
    with torch.no_grad():
        for decoder in network.decoders:
            for last in (decoder.head.mean, decoder.head.spread):
                last.weight.normal_(std=0.1)
    prediction = network(*(x.float() if x.is_floating_point() else x for x in inputs))
    total = sum(v.square().mean() for v in prediction)
    assert isinstance(total, Tensor)
    total.backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # Scales of GRN start at zero and still learn; nothing may be left out.
    assert idle == []
