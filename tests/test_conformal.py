"""Conformal intervals: they cover exchangeable data, and only such; one sensor of an event."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xec.metrics.scores import normal_half_width
from xec.reliability.intervals import LEVELS, Intervals
from xec_training.calibration_report import coverage_rows, false_alarms, table_of
from xec_training.calibration_sample import Sample
from xec_training.conformal import conformal_quantile, fit_intervals, one_per_event
from xec_training.sigma_curves import LEAST, Scales, fit_scales


def sample(
    events: int, seed: int, wide: float = 1.0, shared: float = 0.0, tails: bool = False
) -> Sample:
    """Events whose errors are drawn with sigmas of 1; deep ones have wider errors.

    Args:
        wide: factor of all errors.
        shared: share of a sensor's variance that all sensors of its event have in common.
        tails: Student's t with 3 degrees of freedom in place of a normal distribution.
    """
    rng = np.random.default_rng(seed)
    draw: Any = (lambda *n: rng.standard_t(3, n)) if tails else (lambda *n: rng.normal(size=n))
    uvw = np.stack(
        [
            rng.uniform(-26, 26, events),
            rng.uniform(-69, 69, events),
            rng.exponential(3.6, events),
        ],
        axis=1,
    )
    error = wide * draw(events, 7) * (1 + uvw[:, 2:] / 10)
    count = rng.geometric(0.1, events)  # a few events with many dead sensors
    event = np.repeat(np.arange(events), count)
    m = len(event)
    size = np.repeat(np.where(count > 15, 2.0, 1.0), count)  # where there are many it is hard
    common = draw(events, 2)[event]
    own = draw(m, 2)
    sensor = wide * size[:, None] * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)
    return Sample(
        error=error,
        sigma=np.ones((events, 7)),
        uvw=uvw,
        event=event,
        is_mppc=rng.random(m) < 0.8,
        light=np.exp(rng.normal(3, 2, m)),
        sensor_error=sensor,
        sensor_sigma=np.ones((m, 2)),
        features=rng.normal(size=(events, 5)),
    )


def test_conformal_quantile_covers_at_least_what_it_promises() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        scores = np.abs(rng.normal(size=41))
        covered.append(scores[40] <= conformal_quantile(scores[:40], 0.6827))
    # Exact coverage of rank 28 of 40 is 28/41; four standard deviations of 400 trials.
    assert np.mean(covered) == pytest.approx(28 / 41, abs=4 * math.sqrt(0.217 / 400))


@pytest.mark.parametrize("tails", [False, True])
def test_intervals_cover_fresh_events_in_every_bin(tails: bool) -> None:
    intervals = fit_intervals(sample(20_000, 1, tails=tails), 0)
    rows = coverage_rows(sample(20_000, 2, tails=tails), intervals, 5)
    assert len(rows) == 11  # seven components, two estimates of two kinds of sensor
    for row in rows:
        for level, found, worst in zip(LEVELS, row.coverage, row.worst, strict=True):
            assert found == pytest.approx(level, abs=0.013), row.name
            assert worst == pytest.approx(level, abs=0.09), row.name


def test_a_shift_breaks_the_coverage() -> None:
    """Control: intervals of other data do not cover."""
    intervals = fit_intervals(sample(5000, 1), 0)
    for row in coverage_rows(sample(5000, 2, wide=1.3), intervals, 5):
        assert row.coverage[0] < 0.64, row.name
        assert row.coverage[1] < 0.93, row.name


def test_bins_are_needed() -> None:
    """Control: one factor for all depths covers on the whole, not in the bins."""
    given, fresh = sample(20_000, 1), sample(20_000, 2)
    binned = fit_intervals(given, 0)
    whole = np.quantile(np.abs(given.error[:, 0]), LEVELS)[:, None, None]
    flat = replace(binned, gamma={"energy": np.broadcast_to(whole, binned.gamma["energy"].shape)})
    assert abs(coverage_rows(fresh, binned, 5)[0].worst[0] - LEVELS[0]) < 0.05
    row = coverage_rows(fresh, flat, 5)[0]
    assert row.coverage[0] == pytest.approx(LEVELS[0], abs=0.013)
    assert abs(row.worst[0] - LEVELS[0]) > 0.09


def test_correlated_sensors_counted_one_by_one_undercover() -> None:
    """From few events, the intervals of pooled sensors miss more often than they promise."""
    level = LEVELS[1]
    pooled, drawn = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        size = np.exp(rng.normal(size=26))  # of all errors of an event
        scores = size[:, None] * np.abs(rng.normal(size=(26, 40)))
        fresh = scores[25]
        one = scores[np.arange(25), rng.integers(40, size=25)]
        pooled.append(np.mean(fresh <= conformal_quantile(scores[:25].ravel(), level)))
        drawn.append(np.mean(fresh <= conformal_quantile(one, level)))
    assert np.mean(drawn) > level - 0.02
    assert np.mean(pooled) < np.mean(drawn) - 0.01


def test_one_sensor_is_drawn_of_each_event_all_alike() -> None:
    event = np.repeat([4, 7, 9], [1, 2, 4])
    chosen = np.array([True, True, True, True, True, True, False])
    rng = np.random.default_rng(1)
    drawn = np.stack([one_per_event(event, chosen, rng) for _ in range(3000)])
    assert drawn.shape == (3000, 3)
    np.testing.assert_array_equal(event[drawn], np.tile([4, 7, 9], (3000, 1)))
    counts = np.bincount(drawn[:, 2], minlength=7)
    assert counts[6] == 0
    np.testing.assert_allclose(counts[3:6], 1000, atol=4 * math.sqrt(3000 * 2 / 9))


def test_few_events_take_the_factor_of_all_together() -> None:
    few = sample(60, 1)  # in no bin are there enough
    intervals = fit_intervals(few, 0)
    expected = conformal_quantile(np.abs(few.pull[:, 0]), 0.95)
    np.testing.assert_array_equal(intervals.gamma["energy"][1, :, 0], expected)


def test_scales_make_the_pulls_one_wherever_the_gamma_is() -> None:
    given, fresh = sample(20_000, 1), sample(20_000, 2)
    scales = fit_scales(given)
    assert set(scales.curves) == {"depth", "u", "v", "inner", "pmt"}
    pull = np.abs(fresh.pull) / _factor(scales, fresh)
    bare = np.abs(fresh.pull) / scales.gamma
    w = fresh.uvw[:, 2]
    for low, high in ((0, 1), (1, 3), (3, 7), (7, 12)):
        inside = (w > low) & (w < high)
        np.testing.assert_allclose(np.quantile(pull[inside], 0.6827, axis=0), 1.0, atol=0.08)
    shallow = np.quantile(bare[w < 1], 0.6827, axis=0)
    assert (shallow < 0.85).all()  # control: one factor per task does not
    np.testing.assert_allclose(np.quantile(pull, 0.6827, axis=0), 1.0, atol=0.03)


def _factor(scales: Scales, given: Sample) -> NDArray[np.float64]:
    assert scales.gamma is not None
    c = scales.curves
    return (
        scales.gamma
        * c["depth"].at(given.uvw[:, 2])
        * c["u"].at(np.abs(given.uvw[:, 0]))
        * c["v"].at(np.abs(given.uvw[:, 1]))
    )


def test_a_bin_of_few_events_keeps_the_overall_scale() -> None:
    scales = fit_scales(sample(LEAST - 1, 1))
    for curve in scales.curves.values():
        np.testing.assert_array_equal(curve.factors, 1.0)


def test_intervals_survive_their_record() -> None:
    intervals = fit_intervals(sample(500, 1), 0)
    again = Intervals.from_dict(intervals.as_dict())
    for name in ("energy", "gamma_time", "uvw", "angle"):
        for depth in (-1.0, 0.7, 3.0, 50.0):
            for level in LEVELS:
                ours = intervals.gamma_scale(name, depth, level)
                theirs = again.gamma_scale(name, depth, level)
                assert ours is not None
                np.testing.assert_array_equal(ours, theirs)
    light, kind = np.array([0.5, 20.0, 9e9]), np.array([True, False, True])
    np.testing.assert_array_equal(
        intervals.sensor_scale("npho", light, kind), again.sensor_scale("npho", light, kind)
    )
    assert Intervals.from_dict({**intervals.as_dict(), "gamma": {}}).gamma_scale("uvw", 1.0) is None


def test_crps_of_the_report_is_that_of_a_normal_distribution() -> None:
    """Oracle: the definition, integral of (F(x) - [x >= y])^2."""
    given = sample(400, 3)
    rows = coverage_rows(given, fit_intervals(given, 0), 1)
    x = np.linspace(-40.0, 40.0, 80_001)
    cumulative = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    step = x[1] - x[0]
    expected = [((cumulative - (x >= y)) ** 2).sum() * step for y in given.error[:50, 0]]
    short = replace(given, error=given.error[:50], sigma=given.sigma[:50], uvw=given.uvw[:50])
    found = coverage_rows(short, fit_intervals(given, 0), 1)[0].crps
    assert found == pytest.approx(np.mean(expected), rel=1e-3)
    assert table_of(rows).row_count == 11


def test_without_a_domain_there_are_no_false_alarms_to_report() -> None:
    assert false_alarms(sample(10, 1).features, None) is None
    assert normal_half_width(LEVELS[0]) == pytest.approx(1.0, abs=1e-3)
