"""Accumulators: equal to numpy on everything at once, and samples that are uniform."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chisquare

from xec.detector.channels import INNER_GRID, N_CHANNELS, N_MPPC
from xec.detector.geometry import parametric
from xec.metrics.noise import CountingNoise
from xec.metrics.reservoir import Largest, Reservoir
from xec.metrics.sums import ErrorSums


def pieces(values: np.ndarray, seed: int) -> list[np.ndarray]:
    """The rows cut at random places, empty pieces among them."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(values) + 1, 7))
    return np.split(values, cuts)


def test_sums_are_those_of_all_values_at_once() -> None:
    random = np.random.default_rng(0)
    group = random.integers(0, 4, 1000)
    truth = random.exponential(100, 1000)
    error = random.normal(3, 20, 1000)
    error[::17] = np.nan
    sums = ErrorSums(5)
    for rows in pieces(np.arange(1000), 1):
        sums.add(group[rows], error[rows], truth[rows])
    for number in range(4):
        chosen = (group == number) & ~np.isnan(error)
        e, t = error[chosen], truth[chosen]
        assert sums.count[number] == len(e)
        assert sums.missing[number] == np.sum((group == number) & np.isnan(error))
        assert sums.mae[number] == pytest.approx(np.mean(np.abs(e)))
        assert sums.rmse[number] == pytest.approx(np.sqrt(np.mean(e**2)))
        assert sums.bias[number] == pytest.approx(np.mean(e))
        bright = t >= 100
        assert sums.bright[number] == bright.sum()
        assert sums.relative[number] == pytest.approx(np.mean(np.abs(e[bright]) / t[bright]))
    assert sums.count[4] == 0
    for values in (sums.mae, sums.rmse, sums.bias, sums.relative):
        assert np.isnan(values[4])


def test_a_reservoir_is_exact_up_to_its_capacity() -> None:
    rows = np.random.default_rng(0).normal(size=(100, 2))
    sample = Reservoir(("first", "second"), 100, seed=0)
    for part in pieces(rows, 2):
        sample.add(part)
    assert sample.exact
    np.testing.assert_array_equal(sample.column("second"), rows[:, 1])
    np.testing.assert_array_equal(sample.columns(("second", "first")), rows[:, ::-1])
    sample.add(rows[:1])
    assert not sample.exact
    assert (len(sample), sample.seen) == (100, 101)


def reservoir_counts(trials: int) -> np.ndarray:
    """How often each of 60 items is among the 15 kept."""
    counts = np.zeros(60)
    for seed in range(trials):
        sample = Reservoir(("item",), 15, seed)
        for part in pieces(np.arange(60.0)[:, None], seed):
            sample.add(part)
        kept = sample.column("item").astype(int)
        assert len(set(kept.tolist())) == 15
        counts[kept] += 1
    return counts


def first_counts(trials: int) -> np.ndarray:
    """Of a sample that keeps what comes first a little too readily."""
    counts = np.zeros(60)
    random = np.random.default_rng(0)
    for _ in range(trials):
        weight = random.random(60) - 0.1 * (np.arange(60) < 15)
        counts[np.argsort(weight)[:15]] += 1
    return counts


@pytest.mark.parametrize(
    ("count", "uniform"), [(reservoir_counts, True), (first_counts, False)], ids=["ours", "biased"]
)
def test_every_item_is_kept_equally_often(
    count: Callable[[int], np.ndarray], uniform: bool
) -> None:
    """Counts of a sample without replacement scatter less than chi square's, by 1 - 15/60."""
    counts = count(2000)
    statistic, _ = chisquare(counts)
    corrected = statistic / (1 - 15 / 60)
    assert bool(corrected < 59 + 5 * np.sqrt(2 * 59)) is uniform


def test_the_largest_are_those_of_a_sort() -> None:
    keys = np.random.default_rng(3).normal(size=200)
    keys[50] = np.nan
    rows = np.stack([keys, np.arange(200.0)], axis=1)
    largest = Largest(2, 7)
    for part in pieces(rows, 5):
        largest.add(part[:, 0], part)
    order = np.argsort(-np.where(np.isnan(keys), -np.inf, keys))[:7]
    np.testing.assert_array_equal(largest.rows, rows[order])


def smooth_light(events: int) -> np.ndarray:
    """Between 30 and 170 photons, a polynomial of second order on every face."""
    x, y, z = parametric().position.T / 110
    return np.tile(80 + 30 * x + 20 * y + 25 * z + 10 * y * z, (events, 1))


def test_noise_is_that_which_was_put_in() -> None:
    random = np.random.default_rng(0)
    light = smooth_light(40)
    per_photon = np.where(np.arange(N_CHANNELS) < N_MPPC, 10.0, 6.0)
    npho = light + random.normal(size=light.shape) * np.sqrt(per_photon * light)
    valid = random.random(light.shape) > 0.02
    npho[~valid] = 1e10  # must not be read
    noise = CountingNoise()
    for rows in pieces(np.arange(40), 0):
        noise.add(npho[rows], valid[rows])
    assert noise.per_photon(True) == pytest.approx(10.0, rel=0.03)
    assert noise.per_photon(False) == pytest.approx(6.0, rel=0.06)


def test_smooth_light_has_no_noise_and_rough_light_does() -> None:
    row, column = np.indices(INNER_GRID.shape)
    smooth, rough = np.full((2, 1, N_CHANNELS), 500.0)
    smooth[0, INNER_GRID] = 60 + row * 0.5 + column * 0.7 + row * column * 0.01 + column**2 * 0.01
    rough[0, INNER_GRID] = 100 + 30 * ((row + column) % 2)
    for light, rises in ((smooth, False), (rough, True)):
        noise = CountingNoise()
        noise.add(light, np.ones(light.shape, dtype=bool))
        assert (noise.per_photon(True) > 1.0) is rises
        assert np.isnan(noise.per_photon(False))  # too bright for any stencil
