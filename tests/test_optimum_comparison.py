"""Weighted subsets and ratios to the optimum: unbiased sums, known ratios, honest errors."""

import numpy as np
import pytest

from xec.optimum.comparison import (
    DeadSensors,
    absolute,
    half68,
    mixture_half68,
    ratio,
    statistics,
)
from xec.optimum.strata import choose, importance, inclusion

RANDOM = np.random.default_rng(1)
SIZE = RANDOM.lognormal(0, 2.5, 300)


def test_inclusion_adds_up_and_large_events_are_certain() -> None:
    chance = inclusion(SIZE, 20)
    assert chance.sum() == pytest.approx(20)
    assert chance.max() == 1.0
    assert chance[SIZE.argmax()] == 1.0
    assert chance.min() > 0
    assert inclusion(SIZE, 300).tolist() == [1.0] * 300


def test_weighted_sums_are_unbiased() -> None:
    value = SIZE * RANDOM.uniform(0.5, 1.5, 300)
    sums, plain = [], []
    for seed in range(400):
        rows, weight = choose(SIZE, 20, seed)
        assert len(set(rows)) == len(rows) == 20
        sums.append((weight * value[rows]).sum())
        plain.append(value[rows].sum() * 300 / 20)
    error = np.std(sums) / 20
    assert abs(np.mean(sums) - value.sum()) < 4 * error
    # Without the weights the sum is far off: the check can fail.
    assert abs(np.mean(plain) - value.sum()) > 10 * error


def test_importance_shares_one() -> None:
    event = RANDOM.integers(0, 30, 500)
    size = importance(RANDOM.uniform(0, 5, 500), event, 30)
    assert size.sum() == pytest.approx(1.0)


def _sensors(events: int = 200) -> tuple[DeadSensors, np.ndarray]:
    event = np.repeat(np.arange(events), 10)
    sensors = DeadSensors(event, np.full(len(event), 4.0), events)
    return sensors, RANDOM.standard_normal(len(event))


def test_statistics_are_the_plain_ones() -> None:
    sensors, error = _sensors()
    found = statistics(sensors.of_errors(error), sensors.count)
    rms = np.sqrt(np.mean(error**2))
    np.testing.assert_allclose(found, [rms, np.abs(error).mean(), rms / 2.0])
    measured = absolute(sensors.of_errors(error), sensors.count)["rms"]
    assert measured.value == pytest.approx(rms)
    # Of 2000 standard normals: 1 / sqrt(2 n).
    assert measured.error == pytest.approx(1 / np.sqrt(4000), rel=0.3)


def test_twice_the_error_is_a_ratio_of_two() -> None:
    sensors, error = _sensors()
    ratios = ratio(sensors.of_errors(2 * error), sensors.of_errors(error), np.ones(200))
    for found in ratios.values():
        assert found.value == pytest.approx(2.0)
        assert found.error < 1e-9


def test_a_weighted_subset_gives_the_ratio_of_all() -> None:
    # Half of the events, those of small weight, have three times the error: weights matter.
    sensors, error = _sensors(2000)
    factor = np.where(sensors.event % 2 == 0, 3.0, 1.0)
    best, other = sensors.of_errors(error), sensors.of_errors(factor * error)
    size = np.where(np.arange(2000) % 2 == 0, 5.0, 1.0)
    rows, weight = choose(size, 400, 3)
    found = ratio(other[rows], best[rows], weight)["rms"]
    whole = ratio(other, best, np.ones(2000))["rms"]
    assert whole.value == pytest.approx(5**0.5, rel=0.03)
    assert abs(found.value - whole.value) < 4 * found.error
    blind = ratio(other[rows], best[rows], np.ones(len(rows)))["rms"]
    assert abs(blind.value - whole.value) > 4 * blind.error


def test_half_widths_of_normals() -> None:
    assert half68(RANDOM.standard_normal(20_000) * 3).value == pytest.approx(3.0, rel=0.03)
    assert mixture_half68(np.full(2000, 0.7)) == pytest.approx(0.7, rel=0.02)
