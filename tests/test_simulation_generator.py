"""Whole events: reproducibility, ranges, and what each knob changes."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from xec.contract import MIN_PHOTONS_FOR_TIME
from xec.detector.channels import N_CHANNELS
from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import parametric
from xec.simulation.electronics import ElectronicsConfig
from xec.simulation.generator import (
    Generator,
    PileUpConfig,
    RunConditions,
    SimulatedBatch,
    SimulationConfig,
)

CONFIG = SimulationConfig()
PER_SENSOR = ("npho", "light", "time", "npho_valid", "time_valid", "dead")


def _generator(config: SimulationConfig = CONFIG, seed: int = 7) -> Generator:
    return Generator(config, parametric(), "cpu", seed)


def _equal(a: SimulatedBatch, b: SimulatedBatch) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


@pytest.fixture(scope="module")
def batch() -> SimulatedBatch:
    return _generator().sample(300)


def test_equal_seeds_give_equal_bits() -> None:
    first, second = _generator(), _generator()
    assert all(_equal(first.sample(n), second.sample(n)) for n in (5, 1, 8))


def test_other_seeds_give_other_events() -> None:
    assert not _equal(_generator(seed=7).sample(4), _generator(seed=8).sample(4))


def test_a_resumed_generator_continues_bit_for_bit() -> None:
    generator = _generator()
    generator.sample(3)
    state = generator.state_dict()
    expected = generator.sample(6)
    resumed = _generator(seed=99)
    resumed.load_state_dict(state)
    assert _equal(resumed.sample(6), expected)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    _generator().sample(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_reduced_precision_around_it_changes_nothing() -> None:
    expected = _generator().sample(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _equal(_generator().sample(4), expected)
    torch.set_float32_matmul_precision("medium")
    try:
        assert _equal(_generator().sample(4), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_shapes_and_types(batch: SimulatedBatch) -> None:
    B = len(batch)
    for name in PER_SENSOR:
        assert getattr(batch, name).shape == (B, N_CHANNELS)
    for name in ("npho_valid", "time_valid", "dead"):
        assert getattr(batch, name).dtype == torch.bool
    widths = {"energy": (), "gamma_time": (), "uvw": (3,), "xyz": (3,), "vertex": (3,)}
    widths |= {"direction": (3,), "angle": (2,), "efficiency": ()}
    for name, width in widths.items():
        assert getattr(batch, name).shape == (B, *width)
        assert getattr(batch, name).dtype == torch.float32


def test_no_marker_and_no_nan_ever(batch: SimulatedBatch) -> None:
    for field in fields(batch):
        value = getattr(batch, field.name).float()
        assert bool(torch.isfinite(value).all())
        assert float(value.abs().max()) < 1e8
    assert float(batch.time[~batch.time_valid].abs().max()) == 0.0
    assert -500.0 < float(batch.npho.min()) < 0.0


def test_100_to_300_sensors_are_bright_in_a_signal_event(batch: SimulatedBatch) -> None:
    bright = (batch.npho > 100.0).sum(1).float()
    assert 150.0 < float(bright.median()) < 280.0
    assert float(((bright >= 100) & (bright <= 300)).float().mean()) > 0.9


def test_times_count_where_there_is_light(batch: SimulatedBatch) -> None:
    bright = batch.npho > MIN_PHOTONS_FOR_TIME
    assert not (batch.time_valid & ~bright).any()
    assert float(batch.time_valid[bright].float().mean()) > 0.99


def test_time_zero_is_a_live_sensor_and_the_gamma_converts_nearby(batch: SimulatedBatch) -> None:
    on_time = (batch.time == 0.0) & batch.time_valid & ~batch.dead
    assert float(on_time.any(1).float().mean()) > 0.98  # else it was the brightest one, invalid
    assert float(batch.gamma_time.abs().median()) < 1.0


def test_dead_sensors_keep_reading_what_they_would(batch: SimulatedBatch) -> None:
    dead = batch.dead & (batch.light > 500.0)
    assert int(dead.sum()) > 50
    ratio = batch.npho[dead] / batch.light[dead]
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.05)
    assert bool(batch.time_valid[dead].float().mean() > 0.98)


def test_truth_is_consistent(batch: SimulatedBatch) -> None:
    np.testing.assert_allclose(batch.uvw.numpy(), uvw_from_xyz(batch.xyz.numpy()), atol=1e-4)
    flight = batch.xyz - batch.vertex
    flight = flight / flight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(batch.direction, flight, atol=1e-5, rtol=0)
    assert float(batch.uvw[:, 2].min()) >= -1e-4


def test_the_light_is_centred_on_the_conversion(batch: SimulatedBatch) -> None:
    """The brightest inner sensor lies within the shower's reach of the conversion."""
    brightest = batch.light.argmax(1).numpy()
    uvw = uvw_from_xyz(parametric().position[brightest])
    shallow = batch.uvw[:, 2].numpy() < 3.0
    distance = np.hypot(*(uvw - batch.uvw.numpy())[shallow, :2].T)
    assert np.median(distance) < 1.5
    assert np.median(np.hypot(*(uvw[::-1] - batch.uvw.numpy())[:, :2].T)) > 20.0


def _with_efficiency(efficiency: float) -> SimulationConfig:
    return replace(CONFIG, electronics=ElectronicsConfig(mppc_pde=(efficiency, efficiency)))


def test_efficiency_changes_the_noise_and_not_the_light() -> None:
    poor = _generator(_with_efficiency(0.06)).sample(30)
    good = _generator(_with_efficiency(0.20)).sample(30)
    assert torch.equal(poor.light, good.light)
    spread = [
        float(((b.npho - b.light) / b.light.sqrt())[:, :4092][b.light[:, :4092] > 200].std())
        for b in (poor, good)
    ]
    assert spread[0] > 1.4 * spread[1]


def test_events_have_their_own_run_conditions_unless_a_run_is_given() -> None:
    generator = _generator()
    mixed = generator.sample(6)
    assert len(mixed.efficiency.unique()) == 6
    assert not torch.equal(mixed.dead[0], mixed.dead[1])
    run = generator.draw_run()
    same = generator.sample(6, run)
    assert len(same.efficiency.unique()) == 1
    assert all(torch.equal(same.dead[row], run.dead[0]) for row in range(6))


def test_a_given_dead_map_replaces_the_drawn_one_and_nothing_else() -> None:
    dead = np.zeros(N_CHANNELS, dtype=bool)
    dead[[0, 5, 4759]] = True
    run = _generator().draw_run()
    changed: RunConditions = run.with_dead(dead)
    assert changed.dead[0].nonzero().flatten().tolist() == [0, 5, 4759]
    assert torch.equal(changed.gain, run.gain)
    assert torch.equal(changed.efficiency, run.efficiency)


def test_miscalibration_is_fixed_within_a_run() -> None:
    strong = ElectronicsConfig(gain_spread=0.3, mppc_pde=(0.2, 0.2))
    generator = _generator(replace(CONFIG, electronics=strong))
    run = generator.draw_run()
    gain = run.gain[0].numpy()
    for conditions, correlated in ((run, True), (None, False)):
        batch = generator.sample(200, conditions)
        ratio = (batch.npho.sum(0) / batch.light.sum(0)).numpy()
        assert (np.corrcoef(ratio, gain)[0, 1] > 0.9) == correlated


def _piled_up(probability: float) -> SimulatedBatch:
    config = replace(CONFIG, pile_up=PileUpConfig(probability=probability))
    return _generator(config).sample(60)


def test_pile_up_only_adds_light_and_leaves_the_truth() -> None:
    alone, piled = _piled_up(0.0), _piled_up(1.0)
    assert torch.equal(alone.energy, piled.energy)
    assert torch.equal(alone.uvw, piled.uvw)
    assert bool((piled.light >= alone.light).all())
    more = (piled.light.sum(1) / alone.light.sum(1)) - 1.0
    assert bool((more > 0.01).all())
    assert 0.1 < float(more.median()) < 1.0


def test_pile_up_happens_as_often_as_asked() -> None:
    alone, piled = _piled_up(0.0), _piled_up(0.3)
    struck = (piled.light.sum(1) > 1.001 * alone.light.sum(1)).float().mean()
    assert 0.1 < float(struck) < 0.55


def test_pile_up_shifts_the_times_of_the_sensors_that_it_outshines() -> None:
    spread = [float(b.time[b.time_valid].abs().quantile(0.99)) for b in map(_piled_up, (0.0, 1.0))]
    assert spread[1] > 3 * spread[0]
