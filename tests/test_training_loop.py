"""The training loop and its parts: schedule, average, flips, masks, steps, calibration."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from xec.detector.geometry import mirror_y, mirror_z, parametric
from xec.errors import DivergedError, FileError, UsageError
from xec.models.checkpoint import load_checkpoint
from xec.simulation.generator import Generator, SimulatedBatch
from xec_training.augment import MirrorFlip, flip_y, flip_z
from xec_training.calibrate import calibrate, conformal_quantile, pulls
from xec_training.config import TrainingConfig
from xec_training.ema import averaged, warmed_decay
from xec_training.loop import MAX_BAD_STEPS, Progress, Trainer
from xec_training.masking import hide
from xec_training.objective import task_losses
from xec_training.schedule import cosine_with_warmup
from xec_training.session import Session
from xec_training.source import signal_simulation, training_simulation

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch() -> SimulatedBatch:
    return Generator(training_simulation(), parametric(), CPU, 3).sample(8)


def trainer(out: Path, steps: int = 4, **changes: float) -> Trainer:
    config = TrainingConfig(preset="tiny", steps=steps, batch_size=4, **changes)
    return Trainer(config, parametric(), CPU, out)


def test_cosine_follows_its_closed_form() -> None:
    lr, low, warmup = 3e-4, 1e-6, 0.1
    assert cosine_with_warmup(0.05, lr, low, warmup) == pytest.approx(lr / 2, rel=1e-12)
    assert cosine_with_warmup(0.1, lr, low, warmup) == pytest.approx(lr, rel=1e-12)
    assert cosine_with_warmup(1.0, lr, low, warmup) == pytest.approx(low, rel=1e-12)
    for progress in (0.2, 0.55, 0.9):
        phase = (progress - warmup) / (1 - warmup)
        expected = low + 0.5 * (lr - low) * (1 + math.cos(math.pi * phase))
        assert cosine_with_warmup(progress, lr, low, warmup) == pytest.approx(expected, rel=1e-12)
    assert cosine_with_warmup(0.0, lr, low, 0.0) == pytest.approx(lr, rel=1e-12)


def test_average_follows_its_closed_form() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = averaged(model, 0.9)
    expected = None
    for step in range(40):
        with torch.no_grad():
            model.weight.fill_(math.sin(step))
        average.update_parameters(model)
        value = math.sin(step)
        decay = warmed_decay(0.9, step)
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected, abs=1e-6)
    assert warmed_decay(0.999, 10_000_000) == 0.999


@pytest.mark.parametrize(("flip", "permutation"), [(flip_z, mirror_z), (flip_y, mirror_y)])
def test_a_flip_twice_is_no_flip(flip, permutation, batch: SimulatedBatch) -> None:
    index = torch.from_numpy(permutation().copy())
    back = flip(flip(batch, index), index)
    for name in batch.__dataclass_fields__:
        assert torch.allclose(
            getattr(back, name).double(), getattr(batch, name).double(), atol=1e-4
        ), name


@pytest.mark.parametrize(
    ("flip", "permutation", "axis"), [(flip_z, mirror_z, 2), (flip_y, mirror_y, 1)]
)
def test_flipped_truth_belongs_to_the_flipped_light(
    flip, permutation, axis: int, batch: SimulatedBatch
) -> None:
    """The light map is symmetric, so the flipped event is what the flipped gamma would give."""
    flipped = flip(batch, torch.from_numpy(permutation().copy()))
    position = torch.tensor(parametric().position, dtype=torch.float32)
    weight = batch.light.square() / batch.light.square().sum(1, keepdim=True)
    centre, mirrored = weight @ position, flipped.light.square() @ position
    mirrored = mirrored / flipped.light.square().sum(1, keepdim=True)
    sign = torch.ones(3)
    sign[axis] = -1.0
    assert torch.allclose(mirrored, centre * sign, atol=1e-3)
    assert torch.allclose(flipped.xyz, batch.xyz * sign)
    theta, phi = torch.deg2rad(flipped.angle).unbind(1)
    direction = torch.stack([-theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=1)
    assert torch.allclose(direction, flipped.direction, atol=1e-5)


def test_all_four_mirror_images_are_drawn(batch: SimulatedBatch) -> None:
    flip = MirrorFlip(CPU, torch.Generator().manual_seed(0))
    signs = {tuple((flip(batch).uvw[0] / batch.uvw[0])[:2].sign().tolist()) for _ in range(40)}
    assert len(signs) == 4


def test_hidden_sensors_are_out_of_the_input_and_have_a_known_reading(
    batch: SimulatedBatch,
) -> None:
    masked = hide(batch, 0.3, torch.Generator().manual_seed(0))
    assert not (masked.hidden & masked.npho_valid).any()
    assert not (masked.hidden & masked.live).any()
    assert not (masked.npho_valid & batch.dead).any()
    assert (batch.npho_valid | ~masked.hidden).all()
    assert (masked.npho[~masked.npho_valid] == 0).all()
    assert not (masked.time_valid & ~masked.npho_valid).any()
    assert masked.hidden.sum() > (batch.dead & batch.npho_valid).sum()


def test_without_extra_masks_only_the_dead_are_hidden(batch: SimulatedBatch) -> None:
    masked = hide(batch, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(masked.hidden, batch.dead & batch.npho_valid)


def _loss(run: Trainer, batch: SimulatedBatch) -> float:
    masked = hide(batch, 0.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = task_losses(run.model.predict(*masked.inputs), batch, masked, run.config.weights)
    return sum(loss.item() for loss in losses.values())


def test_training_reduces_the_loss_of_fresh_events_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path / "c", steps=60)
    fresh = Generator(training_simulation(), parametric(), CPU, 77).sample(32)
    before = _loss(run, fresh)
    seen: list[Progress] = []
    final = run.run(seen.append)
    assert [p.step for p in seen] == list(range(1, 61))
    assert final.events == 240
    assert _loss(run, fresh) < 0.6 * before
    _, checkpoint = load_checkpoint(tmp_path / "c", parametric())
    assert checkpoint.training["events"] == 240
    assert checkpoint.training["synthetic"] is True


def test_equal_seeds_train_equal_networks(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    networks = []
    for name in ("a", "b"):
        run = trainer(tmp_path / name, steps=3, seed=5)
        run.run(lambda _: None)
        networks.append(run.averaged_model.state_dict())
    for name, value in networks[0].items():
        assert torch.equal(value, networks[1][name]), name


def test_a_step_with_a_loss_that_is_not_finite_changes_nothing(
    tmp_path: Path, batch: SimulatedBatch
) -> None:
    run = trainer(tmp_path)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    broken = replace(batch, energy=torch.full_like(batch.energy, float("nan")))
    for _ in range(MAX_BAD_STEPS - 1):
        run.step(broken)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(DivergedError, match="lower lr"):
        run.step(broken)


def test_a_good_step_forgives_bad_ones(tmp_path: Path, batch: SimulatedBatch) -> None:
    run = trainer(tmp_path)
    run.step(replace(batch, energy=torch.full_like(batch.energy, float("inf"))))
    assert run.bad_steps == 1
    run.step(batch)
    assert run.bad_steps == 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"steps": None}, "--steps"),
        ({"minutes": 1.0}, "--steps"),
        ({"steps": 0}, "positive"),
        ({"steps": None, "minutes": math.nan}, "positive"),
        ({"lr": -1.0}, "learning rate"),
        ({"lr": math.nan}, "learning rate"),
        ({"warmup": 1.0}, "warmup"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_contradictory_settings_are_named(changes: dict[str, float], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        TrainingConfig(**{"steps": 3, **changes})


def test_other_devices_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cpu or cuda, not gpu"):
        Session(TrainingConfig(preset="tiny", steps=1), tmp_path, "gpu", 0, None)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    session = Session(TrainingConfig(preset="tiny", steps=1), taken, "cpu", 0, None)
    with pytest.raises(FileError, match="taken cannot be written"):
        session.run(2)


def test_conformal_quantile_covers_at_least_what_it_promises() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(400):
        scores = torch.randn(41, generator=generator).abs()
        covered.append(float(scores[40] <= conformal_quantile(scores[:40], 0.6827)))
    # Exact coverage of rank 28 of 40 is 28/41; four standard deviations of 400 trials.
    assert sum(covered) / 400 == pytest.approx(28 / 41, abs=4 * math.sqrt(0.217 / 400))


def test_calibration_makes_the_pulls_of_fresh_events_one(tmp_path: Path) -> None:
    run = trainer(tmp_path, steps=20)
    run.run(lambda _: None)
    model, _ = load_checkpoint(tmp_path, parametric())

    def source(seed: int) -> Generator:
        return Generator(signal_simulation(), parametric(), CPU, seed)

    before = pulls(model, source(1), 64, 0)["energy_sigma"].quantile(0.6827)
    scale = calibrate(model, source(2), 800, 0)
    after = pulls(model, source(3), 400, 9)
    assert abs(before - 1.0) > 0.2  # control: an untrained spread is off
    for name in ("energy_sigma", "gamma_time_sigma"):
        assert after[name].quantile(0.6827).item() == pytest.approx(1.0, abs=0.15), name
    assert set(scale) == {"energy", "gamma_time", "uvw", "angle"}
    assert all(0.7 < value < 1.4 for value in scale.values())
