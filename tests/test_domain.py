"""The domain of the training: a score of events, and how often it gives a false alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support_flags import (
    GEOMETRY,
    answers_of,
    events_of,
    features,
    simulated,
)
from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.detector.coordinates import uvw_from_xyz
from xec.reliability.domain import FEATURES, Domain, features_of
from xec.simulation.generator import PileUpConfig, SimulatedBatch, SimulationConfig


def test_the_rate_of_false_alarms_is_that_of_the_quantile() -> None:
    rng = np.random.default_rng(1)
    draw = lambda n: rng.standard_t(5, (n, len(FEATURES))) * [1, 5, 0.1, 20, 3] + 7  # noqa: E731
    domain = Domain.fit(draw(20_000), 0.99)
    rate = np.mean([domain.is_outside(row) for row in draw(20_000)])
    assert rate == pytest.approx(0.01, abs=0.003)


def test_only_the_upper_side_of_a_feature_counts() -> None:
    domain = Domain(np.zeros(5), np.ones(5), 1.0)
    assert not domain.is_outside(np.full(5, -1e6))
    for place, name in enumerate(FEATURES):
        high = np.where(np.arange(5) == place, 1.5, 0.0)
        assert domain.is_outside(high)
        assert domain.score(high) == (1.5, name)
    assert domain.is_outside(np.array([np.nan, 0, 0, 0, 0]))  # what is no number is not trusted


def test_pile_up_and_dead_patterns_score_higher_than_signal() -> None:
    batch = simulated(120, 1)
    outputs = answers_of(batch)
    domain = Domain.fit(features(events_of(batch), outputs))
    fresh = simulated(60, 2)

    def median(more: np.ndarray | None, given: SimulatedBatch = fresh) -> float:
        rows = features(events_of(given, more), answers_of(fresh))
        return float(np.median([domain.score(row).value for row in rows]))

    second = replace(SimulationConfig(), pile_up=PileUpConfig(1.0, (20.0, 52.8), 50.0))
    piled = simulated(60, 2, second)
    twice = replace(piled, uvw=fresh.uvw)
    quiet = median(None)
    assert median(None, twice) > max(2 * quiet, domain.threshold)
    scattered = np.random.default_rng(1).random((60, N_CHANNELS)) < 0.2
    assert median(scattered) > max(2 * quiet, domain.threshold)


def test_features_are_those_of_a_plain_loop() -> None:
    batch = simulated(3, 4)
    outputs, events = answers_of(batch), events_of(batch)
    position = GEOMETRY.position
    for row, event in enumerate(events):
        chi, bright, timed = [], [], []
        for k in range(N_CHANNELS):
            if not event.npho_valid[k]:
                continue
            mean = float(outputs["npho_mean"][row, k])
            pull = (float(event.npho[k]) - mean) / float(outputs["npho_sigma"][row, k])
            chi.append(pull**2)
            bright += [pull**2] if mean > 10 else []
            if event.time_valid[k] and event.npho[k] > 100:
                way = np.linalg.norm(position[k] - batch.xyz[row].numpy())
                timed.append((float(event.npho[k]), event.time[k] - way * 1.7 / 29.9792458))
        weight, start = np.array(timed).T
        mean_start = np.average(start, weights=weight)
        spread = np.sqrt(np.average((start - mean_start) ** 2, weights=weight))
        u, v, _ = uvw_from_xyz(position[:N_MPPC]).T
        nearest = int(np.hypot(u - outputs["uvw"][row, 0], v - outputs["uvw"][row, 1]).argmin())
        r, c = divmod(nearest, 44)
        around = [
            event.npho_valid[44 * i + j]
            for i in range(r - 2, r + 3)
            for j in range(c - 2, c + 3)
            if 0 <= i < 93 and 0 <= j < 44
        ]
        expected = [
            np.log((sum(chi) + 1) / (len(chi) + 1)),
            np.log((sum(bright) + 1) / (len(bright) + 1)),
            np.log(spread + 0.01),
            np.log1p((~event.npho_valid).sum()),
            1 - np.mean(around),
        ]
        found = features_of(event, outputs, row, GEOMETRY)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_score_does_not_depend_on_company_or_on_dead_sensors_values() -> None:
    batch = simulated(6, 5)
    outputs, events = answers_of(batch), events_of(batch)
    expected = features(events, outputs)
    order = np.random.default_rng(0).permutation(6)
    shuffled = {name: value[order] for name, value in outputs.items()}
    rows = list(events)
    for place, row in enumerate(order):
        found = features_of(rows[row], shuffled, place, GEOMETRY)
        np.testing.assert_array_equal(found, expected[row])
        event = rows[row]
        wild = replace(
            event,
            npho=np.where(event.npho_valid, event.npho, np.float32(np.nan)),
            time=np.where(event.time_valid, event.time, np.float32(np.nan)),
        )
        np.testing.assert_array_equal(features_of(wild, outputs, row, GEOMETRY), expected[row])


def test_an_event_without_times_or_light_has_a_score() -> None:
    batch = simulated(2, 6)
    outputs, events = answers_of(batch), events_of(batch)
    for event in events:
        dark = replace(event, time_valid=np.zeros(N_CHANNELS, dtype=np.bool_))
        assert np.isfinite(features_of(dark, outputs, 0, GEOMETRY)).all()
        nothing = replace(dark, npho_valid=np.zeros(N_CHANNELS, dtype=np.bool_))
        assert np.isfinite(features_of(nothing, outputs, 0, GEOMETRY)).all()
