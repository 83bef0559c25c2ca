"""Load tests: arrivals, percentiles and the knee, against closed forms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from xec.errors import ServiceError
from xec_client.errors import DeadlineExceeded, Overloaded, Unavailable
from xec_loadtest.arrivals import Arrivals, Pacer, schedule
from xec_loadtest.knee import Knee, find_knee, holds
from xec_loadtest.latency import Point, percentile, summary
from xec_loadtest.record import Outcome, Record, outcome_of
from xec_loadtest.thresholds import Row, Thresholds, checks

POISSON, FIXED = Arrivals.POISSON, Arrivals.FIXED


# --- arrivals ------------------------------------------------------------------------------------


def test_the_number_of_arrivals_has_mean_and_variance_of_a_poisson_process() -> None:
    rate, repeats = 50.0, 2000
    counts = [len(schedule(POISSON, rate, 1.0, seed)) for seed in range(repeats)]
    assert abs(np.mean(counts) - rate) < 4 * math.sqrt(rate / repeats)
    assert abs(np.var(counts) / rate - 1) < 4 * math.sqrt(2 / repeats)


def test_gaps_are_exponential() -> None:
    times = schedule(POISSON, 40.0, 500.0, seed=1)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 500
    assert stats.kstest(np.diff(times), "expon", args=(0, 1 / 40)).pvalue > 1e-3
    # Control: the same test tells equal gaps, and a rate that is off by a tenth.
    equal = np.diff(schedule(FIXED, 40.0, 500.0, seed=1))
    assert stats.kstest(equal, "expon", args=(0, 1 / 40)).pvalue < 1e-12
    assert stats.kstest(np.diff(times), "expon", args=(0, 1 / 44)).pvalue < 1e-6


def test_fixed_arrivals_have_equal_gaps() -> None:
    times = schedule(FIXED, 8.0, 2.0, seed=1)
    np.testing.assert_allclose(times, np.arange(16) / 8)


def test_a_schedule_is_known_before_it_begins() -> None:
    again = [schedule(POISSON, 30.0, 3.0, seed) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(again[0], again[1])
    assert list(again[0]) != list(again[2])


class Clock:
    """Goes only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def dues(service: float, rounds: int, *, keeps_to_its_times: bool) -> list[float]:
    """When a sender that is held up for so long each time thinks that its events were due."""
    clock, found = Clock(), []
    pacer = Pacer(itertools.repeat(1.0), clock)
    for _ in range(rounds):
        if not keeps_to_its_times:
            pacer.due = clock.now
        clock.now += pacer.next_wait()
        found.append(pacer.due)
        clock.now += service
    return found


def test_a_pacer_keeps_to_its_times_however_slow_the_answers() -> None:
    assert dues(0.0, 10, keeps_to_its_times=True) == list(np.arange(101.0, 111.0))
    assert dues(2.5, 10, keeps_to_its_times=True) == list(np.arange(101.0, 111.0))
    # Control: one that waits after its answers offers less to a slower server.
    assert dues(2.5, 10, keeps_to_its_times=False)[-1] == 101 + 9 * 3.5


# --- latency -------------------------------------------------------------------------------------


def record_of(latency: Any, outcome: Any = None, lag: Any = 0.0, rate: float = 1.0) -> Record:
    latency = np.asarray(latency, dtype=float)
    intended = np.arange(len(latency)) / rate
    kinds = np.zeros(len(latency)) if outcome is None else outcome
    seconds = len(latency) / rate
    return Record(
        seconds, intended, intended + lag, intended + latency, np.asarray(kinds, dtype=np.int8)
    )


def one_server_queue(arrival: float, service: float, events: int, seed: int) -> Record:
    """M/M/1, first come first served, by Lindley's recursion."""
    random = np.random.default_rng(seed)
    intended = np.cumsum(random.exponential(1 / arrival, events))
    work = random.exponential(1 / service, events)
    done, free = np.empty(events), 0.0
    for k in range(events):
        free = done[k] = max(free, intended[k]) + work[k]
    return Record(intended[-1], intended, intended, done, np.zeros(events, dtype=np.int8))


def test_percentiles_and_goodput_of_a_queue_are_those_of_its_theory() -> None:
    arrival, service, limit = 60.0, 100.0, 0.05
    point = summary(one_server_queue(arrival, service, 300_000, seed=3), limit)
    pace = service - arrival  # the time in an M/M/1 queue is exponential with this rate
    expected = {"p50": math.log(2), "p90": math.log(10), "p99": math.log(100)}
    for name, nats in expected.items():
        assert getattr(point, name) == pytest.approx(nats / pace, rel=0.06), name
    assert point.good_share == pytest.approx(1 - math.exp(-pace * limit), abs=0.01)
    assert point.offered == pytest.approx(arrival, rel=0.02)


def test_a_percentile_needs_as_many_values_as_it_speaks_of() -> None:
    values = np.arange(100.0)
    assert percentile(values[:99], 0.99) is None
    assert percentile(values, 0.99) == pytest.approx(98.01)
    assert percentile(values, 0.999) is None
    assert percentile(values[:1], 0.5) is None


def test_what_was_not_answered_is_counted_and_is_no_latency() -> None:
    outcome = [Outcome.ANSWERED] * 6 + [Outcome.REFUSED] * 2 + [Outcome.LATE, Outcome.FAILED]
    point = summary(record_of([0.1] * 5 + [0.3] + [0.01] * 4, outcome), limit=0.2)
    assert (point.answered, point.refused, point.late, point.failed) == (6, 2, 1, 1)
    assert point.events == 10
    assert point.worst == pytest.approx(0.3)
    assert point.good_share == pytest.approx(0.5)


def test_a_generator_that_lags_makes_a_point_invalid() -> None:
    late = summary(record_of([0.1] * 200, lag=0.02), limit=0.2)
    assert late.valid
    assert late.p50 == pytest.approx(0.1)  # from the intended time, not from when it was sent
    assert not summary(record_of([0.1] * 200, lag=0.03), limit=0.2).valid


def test_outcomes_tell_overload_from_lateness_and_failure() -> None:
    errors = [None, *(kind("no", server="a:1") for kind in (Overloaded, DeadlineExceeded))]
    assert [outcome_of(error) for error in errors] == [0, 1, 2]
    assert outcome_of(Unavailable("no", server="a:1")) is Outcome.FAILED
    assert issubclass(Overloaded, ServiceError)


# --- knee ----------------------------------------------------------------------------------------


def point(offered: float, good_share: float, valid: bool = True) -> Point:
    nothing = dict.fromkeys(("p50", "p90", "p99", "p999", "worst"))
    goodput = offered * good_share
    return Point(offered, goodput, 1, 0, 0, 0, **nothing, lag=0.0, valid=valid)


def queue_curve(service: float, limit: float, rates: Any) -> list[Point]:
    """Share of the answers within the limit of an M/M/1 queue."""
    return [point(rate, 1 - math.exp(-max(service - rate, 0) * limit)) for rate in rates]


@pytest.mark.parametrize("limit", [0.06, 0.1, 0.5])
def test_the_knee_of_a_queue_is_where_its_theory_has_it(limit: float) -> None:
    rates = np.arange(1.0, 131.0)
    expected = 100 - math.log(100) / limit
    knee = find_knee(queue_curve(100, limit, rates[::-1]))
    assert knee == Knee(math.floor(expected), math.floor(expected) + 1)


def test_a_hiccup_below_the_knee_does_not_move_it() -> None:
    shares = {10: 1.0, 20: 0.7, 30: 0.995, 40: 0.9, 50: 0.2}
    assert find_knee([point(*pair) for pair in shares.items()]) == Knee(30, 40)


def test_points_that_the_generator_spoilt_say_nothing() -> None:
    held = [point(10, 1.0), point(20, 1.0), point(30, 1.0, valid=False), point(40, 0.5)]
    assert [holds(one) for one in held] == [True, True, False, False]
    assert find_knee(held) == Knee(20, 40)
    assert find_knee([point(10, 1.0, valid=False)]) is None


def test_a_curve_may_have_no_knee_or_one_that_lies_higher() -> None:
    assert find_knee([point(10, 0.98), point(20, 0.5)]) is None
    assert find_knee([point(10, 1.0), point(20, 0.99)]) == Knee(20, None)


# --- thresholds of locust ------------------------------------------------------------------------

ALLOWED = Thresholds(failures=0.01, p50=5, p99=20)


def broken(*rows: Row, unloaded: float = 10.0) -> list[str]:
    found = checks(rows, unloaded, ALLOWED)
    return [check.sentence for check in found if not check.passed]


def test_a_run_within_all_thresholds_passes() -> None:
    assert broken(Row("single", True, 1000, 10, p50=50, p99=200)) == []


def test_each_threshold_can_be_broken() -> None:
    (failed,) = broken(Row("single", True, 1000, 11, p50=50, p99=200))
    assert failed == "failed: 1.10% of 1000 requests, allowed 1.00%"
    (median,) = broken(Row("single", True, 1000, 0, p50=51, p99=200))
    assert median.startswith("single p50: 51 ms, 5.1 times the unloaded 10.0 ms")
    (tail,) = broken(Row("single", True, 1000, 0, p50=50, p99=201))
    assert tail.startswith("single p99")


def test_what_runs_offline_may_take_its_time_but_not_fail() -> None:
    assert broken(Row("batch", False, 100, 0, p50=5000, p99=9000)) == []
    assert len(broken(Row("batch", False, 100, 2, p50=5000, p99=9000))) == 1


def test_a_run_that_asked_nothing_or_compared_with_nothing_does_not_pass() -> None:
    assert broken() == ["no request ended"]
    assert len(broken(Row("single", True, 10, 0, p50=1, p99=1), unloaded=float("nan"))) == 2
