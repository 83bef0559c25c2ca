"""Spreads, bootstrap errors, scores and bins, against closed forms and slow references."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from xec.metrics.bins import merged_bins
from xec.metrics.bootstrap import bootstrap_error
from xec.metrics.scores import (
    calibration_curve,
    coverage,
    gaussian_crps,
    normal_half_width,
    pull_width,
)
from xec.metrics.spread import ONE_SIGMA, half68, rms, shortest_interval, sigma_eff, within

NORMAL = norm.ppf((np.arange(20_000) + 0.5) / 20_000)  # a sample without chance


def slow_shortest(values: list[float], share: float) -> float:
    """The smallest difference of two values that have enough between them, by trying all."""
    held = math.ceil(share * len(values))
    best = math.inf
    for low in values:
        for high in values:
            if sum(low <= value <= high for value in values) >= held:
                best = min(best, high - low)
    return best


def test_one_sigma_is_the_normal_distributions_share() -> None:
    assert pytest.approx(norm.cdf(1) - norm.cdf(-1), rel=1e-12) == ONE_SIGMA


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3, 10, 31])
def test_shortest_interval_is_the_best_of_all(seed: int, count: int) -> None:
    values = np.random.default_rng(seed).standard_cauchy(count)
    low, high = shortest_interval(values)
    assert high - low == slow_shortest(values.tolist(), ONE_SIGMA)
    assert np.sum((values >= low) & (values <= high)) >= ONE_SIGMA * count


def test_widths_of_a_normal_distribution_are_its_sigma() -> None:
    for width in (sigma_eff, half68, rms):
        assert width(3.0 * NORMAL) == pytest.approx(3.0, rel=2e-3)
    assert within(NORMAL, 0.95) == pytest.approx(1.96, rel=2e-3)


def test_widths_of_an_exponential_distribution() -> None:
    """The shortest interval starts at 0, the central one does not."""
    share = (np.arange(50_000) + 0.5) / 50_000
    values = -np.log1p(-share)
    assert sigma_eff(values) == pytest.approx(-math.log(1 - ONE_SIGMA) / 2, rel=1e-3)
    tail = (1 - ONE_SIGMA) / 2
    assert half68(values) == pytest.approx(math.log((1 - tail) / tail) / 2, rel=1e-3)


def test_sigma_eff_ignores_tails_and_place_and_rms_does_not() -> None:
    spoiled = np.concatenate([NORMAL, np.full(200, 1e4)])
    assert sigma_eff(spoiled + 5) == pytest.approx(sigma_eff(NORMAL), rel=0.03)
    assert rms(spoiled) > 100 * rms(NORMAL)


def test_nothing_has_no_width() -> None:
    nothing = np.empty(0)
    assert all(math.isnan(width(nothing)) for width in (sigma_eff, half68, rms))
    assert math.isnan(within(nothing, 0.68))


def mean(values: np.ndarray) -> float:
    return float(values.mean())


def test_bootstrap_error_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(0, 2, 400)
    error = bootstrap_error(mean, values, seed=3, replicas=2000)
    assert error == pytest.approx(values.std() / math.sqrt(400), rel=0.06)
    assert error == bootstrap_error(mean, values, seed=3, replicas=2000)
    assert error != bootstrap_error(mean, values, seed=4, replicas=2000)


def test_bootstrap_error_of_sigma_eff_is_its_scatter() -> None:
    random = np.random.default_rng(2)
    scatter = np.std([sigma_eff(random.normal(size=300)) for _ in range(400)])
    errors = [bootstrap_error(sigma_eff, random.normal(size=300), seed=k) for k in range(10)]
    assert np.mean(errors) == pytest.approx(scatter, rel=0.25)


def test_bootstrap_of_rows_that_depend_on_each_other_is_too_small() -> None:
    """The negative control: sensors of one event must be resampled together."""
    values = np.random.default_rng(1).normal(0, 2, 400)
    together = bootstrap_error(mean, np.repeat(values[:, None], 4, axis=1), seed=0)
    apart = bootstrap_error(mean, np.repeat(values, 4), seed=0)
    assert together == pytest.approx(2 * apart, rel=0.2)


def test_one_row_has_no_bootstrap_error() -> None:
    assert math.isnan(bootstrap_error(mean, np.ones(1), seed=0))


@pytest.mark.parametrize(("error", "sigma"), [(0.0, 1.0), (1.3, 0.7), (-2.5, 0.4), (0.2, 5.0)])
def test_crps_is_its_integral(error: float, sigma: float) -> None:
    below, _ = quad(lambda x: norm.cdf(x, 0, sigma) ** 2, -12 * sigma, error, limit=200)
    above, _ = quad(lambda x: norm.sf(x, 0, sigma) ** 2, error, error + 12 * sigma + 5, limit=200)
    score = gaussian_crps(np.array([error]), np.array([sigma]))
    assert score[0] == pytest.approx(below + above, rel=1e-6)


def test_crps_becomes_the_absolute_error_and_is_best_at_the_true_sigma() -> None:
    assert gaussian_crps(np.array([-3.0]), np.array([1e-9]))[0] == pytest.approx(3.0)
    scores = {s: gaussian_crps(2 * NORMAL, np.full(len(NORMAL), s)).mean() for s in (1, 2, 3)}
    assert scores[2] < min(scores[1], scores[3])


def test_coverage_of_right_and_wrong_sigmas() -> None:
    for level in (0.3, ONE_SIGMA, 0.95):
        assert coverage(NORMAL, level) == pytest.approx(level, abs=2e-4)
    assert coverage(2 * NORMAL, 0.95) < 0.70
    assert coverage(2 * NORMAL, 0.95, scale=2.0) == pytest.approx(0.95, abs=2e-4)
    assert normal_half_width(ONE_SIGMA) == pytest.approx(1.0)
    assert math.isnan(coverage(np.empty(0), 0.5))


def test_calibration_curve_and_pull_width() -> None:
    levels = (0.1, 0.5, 0.9)
    assert calibration_curve(NORMAL, levels) == pytest.approx(levels, abs=2e-4)
    assert max(calibration_curve(3 * NORMAL, levels)) < 0.5
    tailed = np.where(np.arange(len(NORMAL)) % 50 == 0, 10 * NORMAL, NORMAL)
    core, total = pull_width(tailed)
    assert core == pytest.approx(1.0, abs=0.03)
    assert total > 1.5


def test_bins_that_hold_enough_stay_and_others_join() -> None:
    coordinate = np.repeat([0.5, 1.5, 2.5, 3.5, 4.0], [60, 30, 30, 70, 9])
    bins = merged_bins(coordinate, (0.0, 1.0, 2.0, 3.0, 4.0), 50)
    assert [(one.low, one.high, len(one.rows), one.parts) for one in bins] == [
        (0.0, 1.0, 60, 1),
        (1.0, 3.0, 60, 2),
        (3.0, 4.0, 79, 1),  # the upper edge of all belongs to it
    ]
    assert bins[1].centre == 2.0
    assert np.array_equal(coordinate[bins[0].rows], np.full(60, 0.5))


def test_what_is_left_over_joins_the_last_bin() -> None:
    coordinate = np.repeat([0.5, 2.5], [60, 10])
    (only,) = merged_bins(coordinate, (-1.0, 0.0, 1.0, 2.0, 3.0, 9.0), 50)
    assert (only.low, only.high, len(only.rows), only.parts) == (0.0, 3.0, 70, 2)


@pytest.mark.parametrize("seed", range(4))
def test_no_bin_is_too_small_and_no_row_is_lost(seed: int) -> None:
    random = np.random.default_rng(seed)
    coordinate = random.normal(0, 2, 500)
    coordinate[:20] = np.nan
    bins = merged_bins(coordinate, (-3.0, -2.0, -1.0, 0.0, 0.1, 1.0, 3.0), 40)
    rows = np.concatenate([one.rows for one in bins])
    assert len(np.unique(rows)) == len(rows) == np.sum(np.abs(coordinate) <= 3)
    assert all(len(one.rows) >= 40 for one in bins)
    assert all(one.high <= other.low for one, other in pairwise(bins))


def test_too_few_rows_make_no_bin() -> None:
    assert merged_bins(np.full(49, 0.5), (0.0, 1.0, 2.0)) == []
    assert len(merged_bins(np.full(50, 0.5), (0.0, 1.0, 2.0))) == 1
    assert merged_bins(np.full(99, 7.0), (0.0, 1.0, 2.0)) == []
