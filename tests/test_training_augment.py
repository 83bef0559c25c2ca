"""Mirror images of events, event by event, and noise on what the network sees."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from xec.detector.geometry import parametric
from xec.simulation.generator import Generator, SimulatedBatch
from xec_training.augment import SENSOR_FIELDS, MirrorFlip, Y, Z, add_noise, jitter_times
from xec_training.data.batch import TrainingBatch
from xec_training.data.simulated import training_simulation
from xec_training.masking import Masked, hide

CPU = torch.device("cpu")
ALL_IMAGES = torch.arange(4).repeat(4)
SIGNS = torch.tensor([[1.0, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]])  # of x, y, z


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def simulated() -> SimulatedBatch:
    return Generator(training_simulation(), parametric(), CPU, 3).sample(16)


@pytest.fixture(scope="module")
def batch(simulated: SimulatedBatch) -> TrainingBatch:
    return TrainingBatch.from_simulated(simulated)


@pytest.fixture(scope="module")
def flip() -> MirrorFlip:
    return MirrorFlip(CPU, rng())


def test_sensors_go_where_their_mirror_image_is(flip: MirrorFlip, batch: TrainingBatch) -> None:
    """A map of positions, as if it were light, becomes the reflected map."""
    position = torch.from_numpy(parametric().position).float()
    for axis in range(3):
        marked = replace(batch, light=position[:, axis].repeat(16, 1))
        reflected = flip.reflect(marked, ALL_IMAGES).light
        assert torch.equal(reflected, position[:, axis] * SIGNS[ALL_IMAGES, axis, None])


def test_truth_is_reflected_with_the_sensors(
    flip: MirrorFlip, batch: TrainingBatch, simulated: SimulatedBatch
) -> None:
    reflected = flip.reflect(batch, ALL_IMAGES)
    theta, phi = torch.deg2rad(reflected.angle.double()).unbind(1)
    direction = torch.stack([-theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=1)
    expected = simulated.direction * SIGNS[ALL_IMAGES]
    assert torch.allclose(direction, expected.double(), atol=1e-5)
    assert not torch.allclose(direction, simulated.direction.double(), atol=1e-2)  # control
    u, v, w = reflected.uvw.unbind(1)
    assert torch.equal(u, simulated.xyz[:, 2] * SIGNS[ALL_IMAGES, 2])
    assert torch.equal(v, batch.uvw[:, 1] * SIGNS[ALL_IMAGES, 1])
    assert torch.equal(w, batch.uvw[:, 2])
    assert torch.equal(reflected.energy, batch.energy)
    assert torch.equal(reflected.gamma_time, batch.gamma_time)


def test_the_image_of_an_image_is_the_event(flip: MirrorFlip, batch: TrainingBatch) -> None:
    there = flip.reflect(batch, ALL_IMAGES)
    back = flip.reflect(there, ALL_IMAGES)
    for field in fields(batch):
        a, b = getattr(back, field.name), getattr(batch, field.name)
        if field.name == "angle":
            assert torch.allclose(a, b, rtol=0, atol=1.6e-5)
        else:
            assert torch.equal(a, b), field.name
    for name in SENSOR_FIELDS:
        assert not torch.equal(getattr(there, name), getattr(batch, name)), name


def test_both_reflections_are_one_after_the_other(flip: MirrorFlip, batch: TrainingBatch) -> None:
    z, y = (torch.full((16,), image) for image in (Z, Y))
    twice, once = flip.reflect(flip.reflect(batch, z), y), flip.reflect(batch, z + y)
    for field in fields(batch):
        assert torch.equal(getattr(twice, field.name), getattr(once, field.name)), field.name


def test_every_event_draws_its_own_image(batch: TrainingBatch) -> None:
    flip = MirrorFlip(CPU, rng())
    many = TrainingBatch.concatenate([batch[:1]] * 400)
    drawn = (flip(many).uvw / batch.uvw[0])[:, :2].sign()
    images, counts = drawn.unique(dim=0, return_counts=True)
    assert len(images) == 4
    # 400 draws of probability 1/4, four standard deviations.
    assert ((counts - 100).abs() < 4 * 75**0.5).all()
    again = MirrorFlip(CPU, rng())(many)
    assert torch.equal((again.uvw / batch.uvw[0])[:, :2].sign(), drawn)
    assert not torch.equal((flip(many).uvw / batch.uvw[0])[:, :2].sign(), drawn)


def test_events_without_truth_stay_without(flip: MirrorFlip, batch: TrainingBatch) -> None:
    zero = torch.zeros_like(batch.angle)
    unknown = replace(batch, angle=zero, has_truth=torch.zeros_like(batch.has_truth))
    assert torch.equal(flip.reflect(unknown, ALL_IMAGES).angle, zero)


@pytest.fixture(scope="module")
def masked(batch: TrainingBatch) -> Masked:
    return hide(batch, 0.2, 0.0, rng())


@pytest.mark.parametrize(
    ("noisy", "name", "valid"),
    [(add_noise, "npho", "live"), (jitter_times, "time", "time_valid")],
)
def test_noise_is_on_what_the_network_sees_and_nowhere_else(
    noisy, name: str, valid: str, masked: Masked
) -> None:
    sigma = 2.5
    changed = noisy(masked, sigma, rng())
    where = getattr(masked, valid)
    difference = (getattr(changed, name) - getattr(masked, name)).double()
    assert (getattr(changed, name)[~where] == 0).all()
    n = int(where.sum())
    assert difference[where].std() == pytest.approx(sigma, rel=4 / (2 * n) ** 0.5)
    assert abs(difference[where].mean()) < 4 * sigma / n**0.5
    for field in fields(masked):
        if field.name != name:
            assert getattr(changed, field.name) is getattr(masked, field.name), field.name
    assert torch.equal(getattr(noisy(masked, sigma, rng()), name), getattr(changed, name))


@pytest.mark.parametrize("noisy", [add_noise, jitter_times])
def test_no_noise_changes_no_bit(noisy, masked: Masked) -> None:
    assert noisy(masked, 0.0, rng()) is masked


def test_targets_do_not_see_the_noise(batch: TrainingBatch) -> None:
    before = batch.npho.clone()
    masked = hide(batch, 0.2, 0.0, rng())
    changed = add_noise(masked, 10.0, rng())
    assert torch.equal(batch.npho, before)
    assert not torch.equal(changed.npho[masked.live], batch.npho[masked.live])
