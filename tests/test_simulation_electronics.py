"""Readings against closed forms: means, variances, times, validity."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xec.contract import MIN_PHOTONS_FOR_TIME
from xec.detector.channels import IS_MPPC, N_CHANNELS
from xec.simulation.electronics import (
    Electronics,
    ElectronicsConfig,
    Readings,
    draw_efficiency,
    draw_gains,
    time_zero,
)
from xec.simulation.optics import Illumination

CONFIG = ElectronicsConfig()
MPPC = torch.from_numpy(IS_MPPC.copy())
REPEATS = 400


def _read(
    light: float, efficiency: float, config: ElectronicsConfig = CONFIG, seed: int = 1
) -> Readings:
    """The same light on all sensors, many times."""
    shown = Illumination(
        torch.full((REPEATS, N_CHANNELS), light), torch.full((REPEATS, N_CHANNELS), 2.0)
    )
    return Electronics(config, "cpu").read(
        shown,
        torch.full((REPEATS,), efficiency),
        torch.ones(1, N_CHANNELS),
        torch.Generator().manual_seed(seed),
    )


def _npho(readings: Readings, sensors: torch.Tensor) -> torch.Tensor:
    return readings.npho[:, sensors].double()


@pytest.mark.parametrize("light", [0.0, 3.0, 40.0, 5000.0])
@pytest.mark.parametrize("efficiency", [0.06, 0.2])
def test_mean_and_variance_of_the_readings(light: float, efficiency: float) -> None:
    readings = _read(light, efficiency)
    kinds = (
        (MPPC, efficiency, CONFIG.mppc_excess_noise),
        (~MPPC, CONFIG.pmt_qe, CONFIG.pmt_excess_noise),
    )
    for sensors, pde, excess in kinds:
        npho = _npho(readings, sensors)
        variance = (excess * light * pde + CONFIG.pedestal**2) / pde**2
        assert float(npho.mean()) == pytest.approx(
            light, abs=5 * (variance / npho.numel()) ** 0.5 + 1e-5 * light
        )
        assert float(npho.var()) == pytest.approx(variance, rel=0.02)


def test_the_variance_test_would_see_missing_excess_noise() -> None:
    plain = _npho(_read(5000.0, 0.1, replace(CONFIG, mppc_excess_noise=1.0)), MPPC).var()
    assert float(plain) < 0.8 * (CONFIG.mppc_excess_noise * 500 + CONFIG.pedestal**2) / 0.1**2


def test_empty_sensors_read_slightly_negative_counts_at_times() -> None:
    npho = _npho(_read(0.0, 0.1), MPPC)
    assert float((npho < 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(npho.min()) > -100.0


def test_time_spread_falls_with_the_square_root_of_the_photoelectrons() -> None:
    for light in (2000.0, 20_000.0):
        readings = _read(light, 0.1)
        spread = float(readings.time[:, MPPC].double().std())
        npe = light * 0.1
        expected = (CONFIG.time_per_photoelectron**2 / npe + CONFIG.time_floor**2) ** 0.5
        assert spread == pytest.approx(expected, rel=0.02)
        assert float(readings.time.double().mean()) == pytest.approx(2.0, abs=0.01)


def test_validity_bits() -> None:
    dim, bright = _read(MIN_PHOTONS_FOR_TIME / 5, 0.2), _read(10_000.0, 0.2)
    assert float(dim.time_valid.float().mean()) < 0.01
    lost = 1.0 - bright.npho_valid.float().mean()
    assert float(lost) == pytest.approx(CONFIG.npho_invalid, rel=0.1)
    lost = 1.0 - bright.time_valid.float().mean()
    assert float(lost) == pytest.approx(CONFIG.npho_invalid + CONFIG.time_invalid, rel=0.1)
    for readings in (dim, bright):
        assert not (readings.time_valid & ~readings.npho_valid).any()
        assert bool((readings.npho[readings.time_valid] > MIN_PHOTONS_FOR_TIME).all())


def test_efficiencies_and_gains_are_drawn_as_configured() -> None:
    rng = torch.Generator().manual_seed(4)
    efficiency = draw_efficiency(5000, CONFIG, rng).numpy()
    assert 0.06 <= efficiency.min() < 0.061
    assert 0.199 < efficiency.max() < 0.2
    gains = draw_gains(50, CONFIG, rng)
    assert float(gains.std()) == pytest.approx(CONFIG.gain_spread, rel=0.02)
    assert float(gains.mean()) == pytest.approx(1.0, abs=1e-3)


def _readings(npe: list[float], time: list[float], valid: list[bool]) -> Readings:
    bits = torch.tensor([valid])
    counts = torch.tensor([npe])
    return Readings(counts, counts, torch.tensor([time]), bits, bits)


def test_time_zero_is_the_earliest_bright_live_valid_sensor() -> None:
    readings = _readings(
        npe=[60.0, 70.0, 80.0, 90.0, 10.0],
        time=[5.0, 3.0, 2.0, 1.0, 0.0],
        valid=[True, True, True, False, True],
    )
    live = torch.tensor([[True, True, False, True, True]])
    assert time_zero(readings, live, 50.0).item() == 3.0
    assert time_zero(readings, torch.ones_like(live), 50.0).item() == 2.0


def test_time_zero_without_bright_sensors_is_that_of_the_brightest() -> None:
    readings = _readings([10.0, 20.0, 5.0], [1.0, 7.0, 0.0], [True, True, True])
    live = torch.ones(1, 3, dtype=torch.bool)
    assert time_zero(readings, live, 50.0).item() == 7.0
    assert np.isfinite(time_zero(readings, ~live, 50.0).item())
