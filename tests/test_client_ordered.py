"""Work in flight: order, bounded look-ahead, and the end at the first failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec_client.ordered import ordered_map


@given(items=st.lists(st.integers(), max_size=30), in_flight=st.integers(1, 6))
def test_like_map(items: list[int], in_flight: int) -> None:
    assert list(ordered_map(str, items, in_flight)) == [(item, str(item)) for item in items]


def test_order_is_kept_where_the_first_is_the_slowest() -> None:
    second_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_done.wait(30)
        else:
            second_done.set()
        return number

    assert [answer for _, answer in ordered_map(work, range(2), 2)] == [0, 1]


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_the_look_ahead_is_bounded(in_flight: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield number

    ahead = [taken - number for number, _ in ordered_map(abs, items(), in_flight)]
    assert max(ahead) == in_flight


def test_so_many_calls_run_together() -> None:
    together = threading.Barrier(3, timeout=30)
    # Each call waits for two others: fewer threads than three would never get past.
    assert len(list(ordered_map(lambda _: together.wait(), range(6), 3))) == 6


def test_a_failed_call_ends_it() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    results = ordered_map(work, range(1000), 2)
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(begun) <= 6


def test_a_failing_source_ends_it() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(ordered_map(abs, items(), 4))


def test_a_consumer_that_leaves_does_not_wait() -> None:
    release = threading.Event()

    def work(number: int) -> int:
        if number > 0:
            assert release.wait(30)
        return number

    results = ordered_map(work, range(100), 3)
    # Hangs here if leaving waited for the calls that still run.
    assert next(results) == (0, 0)
    results.close()
    release.set()
