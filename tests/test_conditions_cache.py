"""The cache of dead lists: what it remembers, what it asks, and what it says while it cannot ask.

The database's part is played by a stub here; the tests with a real one are in
test_conditions_away.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from xec.conditions.cache import ConditionsCache
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import AsOf, Known
from xec.errors import (
    ConditionsError,
    ConditionsUnavailable,
    RunAfterLastInterval,
    UnknownRun,
)


class StubStore:
    """Knows the runs in `lists`; may be away, damaged, or silent until `answer` is set."""

    def __init__(self) -> None:
        self.lists: dict[int, DeadList] = {}
        self.error: Exception | None = None
        self.answer = threading.Event()
        self.answer.set()
        self.asked: list[int] = []

    def lookup(self, run: int, tag: Tag, as_of: AsOf = None) -> Known:
        self.asked.append(run)
        self.answer.wait()
        if self.error is not None:
            raise self.error
        if run not in self.lists:
            raise RunAfterLastInterval(f"run {run} comes after all")
        return Known(run, tag, self.lists[run], Runs(run, run), 1, 1)


A, B = DeadList.of((17,)), DeadList.of(())
AWAY = ConditionsUnavailable("it cannot be reached.")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Iterator[StubStore]:
    store = StubStore()
    yield store
    store.answer.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(store: StubStore, clock: Clock) -> ConditionsCache:
    return ConditionsCache(
        store, Tag.ONLINE, fresh=10, patience=0.2, retry=1, max_runs=3, clock=clock
    )


def test_an_answer_holds_for_a_while(
    cache: ConditionsCache, store: StubStore, clock: Clock
) -> None:
    store.lists = {5: A}
    before = datetime.now(UTC)
    first = cache.lookup(5)
    assert (first.known.dead_list, first.known.tag, first.stale) == (A, Tag.ONLINE, False)
    assert before <= first.as_of <= datetime.now(UTC)
    clock.now += 9.9
    assert cache.lookup(5) == first
    store.lists = {5: B}
    assert cache.lookup(5) == first
    clock.now += 0.2
    second = cache.lookup(5)
    assert (second.known.dead_list, second.stale) == (B, False)
    assert second.as_of > first.as_of
    assert store.asked == [5, 5]


def test_an_unknown_run_is_an_error_with_and_without_database(
    cache: ConditionsCache, store: StubStore, clock: Clock
) -> None:
    for _ in range(3):
        with pytest.raises(RunAfterLastInterval, match="run 7 comes after all"):
            cache.lookup(7)
    assert store.asked == [7]  # nobody makes the database work by asking again and again
    clock.now += 1.1
    store.error = AWAY
    with pytest.raises(ConditionsUnavailable, match="list of run 7 is not known here"):
        cache.lookup(7)
    clock.now += 1.1
    store.error = None
    store.lists = {7: B}  # meanwhile somebody said: nothing is dead
    assert cache.lookup(7).known.dead_list == B
    store.lists = {}  # and withdrew it
    clock.now += 11
    with pytest.raises(UnknownRun):
        cache.lookup(7)
    store.error = AWAY
    clock.now += 11
    with pytest.raises(ConditionsUnavailable):  # what was withdrawn does not come back
        cache.lookup(7)


def test_what_was_seen_survives_the_database(
    cache: ConditionsCache, store: StubStore, clock: Clock
) -> None:
    store.lists = {5: A, 6: B}
    seen = cache.lookup(5)
    store.error = AWAY
    assert cache.lookup(5) == seen  # not due yet
    assert cache.away == ""
    clock.now += 11
    for _ in range(100):
        answer = cache.lookup(5)
        assert (answer.known, answer.as_of, answer.stale) == (seen.known, seen.as_of, True)
    assert store.asked == [5, 5]  # asked once more, then left alone
    assert cache.away == "it cannot be reached."
    with pytest.raises(ConditionsUnavailable, match=r"run 6 .* cannot be asked: it cannot be rea"):
        cache.lookup(6)
    store.error = None
    clock.now += 1.1
    back = cache.lookup(5)
    assert (back.stale, cache.away) == (False, "")
    assert back.as_of > seen.as_of
    assert cache.lookup(6).known.dead_list == B


def test_a_silent_database_costs_one_wait(
    cache: ConditionsCache, store: StubStore, clock: Clock
) -> None:
    """One that hangs holds nobody up for longer than `patience`, and most not at all."""
    store.lists = {5: A}
    cache.lookup(5)
    clock.now += 11
    store.answer.clear()
    begin = time.monotonic()
    assert cache.lookup(5).stale
    waited = time.monotonic() - begin
    assert waited >= 0.2
    for step in range(50):
        clock.now += step % 2
        with pytest.raises(ConditionsUnavailable, match="did not answer within"):
            cache.lookup(6)
        assert cache.lookup(5).stale
    assert store.asked == [5, 5]  # the question that hangs is the only one
    assert time.monotonic() - begin < 25 * 0.2
    store.answer.set()
    limit = time.monotonic() + 60
    while cache.away and time.monotonic() < limit:
        time.sleep(0.001)
    assert not cache.lookup(5).stale


def test_a_database_that_refuses_is_no_reason_to_stop(
    cache: ConditionsCache, store: StubStore, clock: Clock
) -> None:
    store.lists = {5: A}
    cache.lookup(5)
    store.error = ConditionsError("permission denied")
    clock.now += 11
    assert cache.lookup(5).stale
    with pytest.raises(ConditionsError, match=r"run 6 .* permission denied") as caught:
        cache.lookup(6)
    assert not isinstance(caught.value, UnknownRun | ConditionsUnavailable)


def test_a_defect_is_not_hidden(cache: ConditionsCache, store: StubStore, clock: Clock) -> None:
    store.lists = {5: A}
    cache.lookup(5)
    clock.now += 11
    store.error = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError):
        cache.lookup(5)


def test_no_run_number_does_not_count_as_absence(cache: ConditionsCache, store: StubStore) -> None:
    for wrong in (-1, 2**70):
        with pytest.raises(ConditionsError, match="no run number"):
            cache.lookup(wrong)
    assert (store.asked, cache.away) == ([], "")


def test_it_is_bounded_and_unknown_runs_drive_nothing_out(
    cache: ConditionsCache, store: StubStore, clock: Clock
) -> None:
    store.lists = dict.fromkeys(range(4), A)
    for run in (0, 1, 2, 0, 3):  # 1 was not asked for longest
        cache.lookup(run)
    for run in range(100, 150):
        with pytest.raises(UnknownRun):
            cache.lookup(run)
    assert len(cache) == 6
    store.error = AWAY
    clock.now += 11
    assert all(cache.lookup(run).stale for run in (0, 2, 3))
    with pytest.raises(ConditionsUnavailable):
        cache.lookup(1)


def test_threads_that_ask_the_same_ask_once(cache: ConditionsCache, store: StubStore) -> None:
    store.lists = {5: A}
    store.answer.clear()
    slow = ConditionsCache(store, Tag.ONLINE, patience=30)
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(slow.lookup, 5) for _ in range(16)]
        while not store.asked:
            time.sleep(0.001)
        time.sleep(0.05)
        store.answer.set()
        assert {answer.result().known.dead_list for answer in answers} == {A}
    assert store.asked == [5]


def test_many_threads_get_the_list_of_their_run(store: StubStore) -> None:
    """Under evictions and expiry; a mix-up of runs would show."""
    store.lists = {run: DeadList.of((run,)) for run in range(50)}
    cache = ConditionsCache(store, Tag.ONLINE, fresh=0.002, patience=30, max_runs=7)

    def work(seed: int) -> int:
        wrong = 0
        for step in range(100):
            run = (seed * 31 + step * 17) % 60
            try:
                known = cache.lookup(run).known
                wrong += (known.run, known.dead_list.channels) != (run, (run,))
            except UnknownRun:
                wrong += run < 50
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [0] * 8
    assert len(cache) <= 14
