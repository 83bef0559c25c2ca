"""Events that would be late are refused when they come, and only those."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support_batcher import FakeClock, Gate, make, settle, submit
from xec.engines.priority import Priority
from xec_server.calls.refusal import Reason, refusal_of
from xec_server.queueing.batcher import Batcher
from xec_server.queueing.forwarder import Forwarder, ForwardPolicy
from xec_server.queueing.lanes import Lanes
from xec_server.queueing.outcomes import HopelessError
from xec_server.queueing.threads import DaemonThreads

names = st.sampled_from("abc")
puts = st.lists(st.tuples(st.sampled_from(Priority), names, names), max_size=40)


@given(puts, st.sampled_from(Priority), names, names, st.integers(1, 9))
def test_the_place_is_where_the_last_of_them_comes(
    found: list[tuple[Priority, str, str]], lane: Priority, client: str, call: str, more: int
) -> None:
    lanes: Lanes[str] = Lanes()
    for number, (other, *path) in enumerate(found):
        lanes.put(f"old {number}", other, tuple(path))
    place = lanes.place(more, lane, (client, call))
    for _ in range(more):
        lanes.put("new", lane, (client, call))
    order = [lanes.take() for _ in range(len(lanes))]
    last = len(order) - order[::-1].index("new")
    # Whose turn it is just now may be one of each other member before or after.
    assert abs(place - last) <= 2 * len({(one, *path) for one, *path in found})
    if not found:
        assert place == last == more


@given(puts, st.sampled_from(Priority))
def test_lengths_are_those_of_what_is_there(
    found: list[tuple[Priority, str, str]], lane: Priority
) -> None:
    lanes: Lanes[int] = Lanes()
    for number, (other, *path) in enumerate(found):
        lanes.put(number, other, tuple(path))
    lanes.keep(lambda number: number % 3 != 0)
    for _ in range(len(lanes) // 2):
        lanes.take()
    left = list(lanes)
    assert len(lanes) == len(left)
    assert lanes.waiting(lane) == sum(found[number][0] == lane for number in left)
    assert lanes.up_to(lane) == sum(found[number][0] <= lane for number in left)
    lanes.clear()
    assert len(lanes) == lanes.up_to(Priority.OFFLINE) == 0


async def paced(gate: Gate, clock: FakeClock, **policy: float) -> Batcher[int, str]:
    """A batcher that has learned that an event takes 1 s."""
    batcher = make(gate, clock, size=1, workers=1, queue=200, **policy)
    await one_second(batcher, gate, clock)
    return batcher


async def one_second(batcher: Batcher[int, str], gate: Gate, clock: FakeClock) -> None:
    task = submit(batcher, 0)
    await gate.has_started()
    clock.now += 1
    gate.passes.release()
    await task


async def test_what_would_be_late_is_refused_at_once() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = await paced(gate, clock)
    waiting = [submit(batcher, number) for number in range(1, 6)]
    await gate.has_started()
    await settle()
    assert batcher.waiting == 4
    with pytest.raises(HopelessError) as caught:
        await batcher.submit([9], clock.now + 5)  # the fifth that waits, 5 s and what is kept
    assert caught.value.retry_after == pytest.approx(5)
    refusal = refusal_of(caught.value)
    assert refusal is not None
    assert refusal.reason is Reason.QUEUE_TOO_LONG
    assert refusal.retry_after == pytest.approx(5)
    assert (batcher.counts.refused, batcher.counts.hopeless) == (1, 1)
    accepted = [submit(batcher, 9, deadline=clock.now + 6), submit(batcher, 10)]
    await settle()
    assert batcher.waiting == 6  # one with time enough, and one with all the time there is
    gate.passes.release(100)
    await asyncio.gather(*waiting, *accepted)
    assert [9] in gate.batches


async def test_an_idle_engine_is_always_tried_so_that_a_bad_hour_is_forgotten() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = await paced(gate, clock)
    gate.passes.release(100)
    await batcher.submit([1], clock.now + 0.01)  # takes no time by this clock
    assert batcher.counts.hopeless == 0
    before = batcher._pace.time_for(1)
    for _ in range(50):
        await batcher.submit([1], clock.now + 0.01)
    assert batcher._pace.time_for(1) < 0.01 * before


async def test_another_client_does_not_wait_behind_a_greedy_one() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = await paced(gate, clock)
    greedy = asyncio.create_task(batcher.submit(range(50), None, Priority.ONLINE, ("greedy", "")))
    await gate.has_started()
    await settle()
    modest = batcher.submit([7], clock.now + 3, Priority.ONLINE, ("modest", ""))
    task = asyncio.create_task(modest)
    await settle()
    assert not task.done()
    with pytest.raises(HopelessError):
        await batcher.submit([7], clock.now + 3, Priority.ONLINE, ("greedy", ""))
    with pytest.raises(HopelessError):
        await batcher.submit([7], clock.now + 3, Priority.OFFLINE, ("modest", ""))
    gate.passes.release(100)
    await asyncio.gather(greedy, task)


async def test_the_forwarder_looks_ahead_too() -> None:
    clock, passes = FakeClock(), threading.Semaphore(0)
    started = threading.Semaphore(0)

    def compute(items: object, seconds: float | None) -> list[str | Exception]:
        started.release()
        assert passes.acquire(timeout=30)
        return ["answer"]

    forwarder: Forwarder[int, str] = Forwarder(
        compute, ForwardPolicy(queue=100, calls=1), lambda: 1, clock
    )
    first = asyncio.create_task(forwarder.submit([0]))
    assert await asyncio.to_thread(started.acquire, timeout=30)
    clock.now += 1
    passes.release()
    await first
    waiting = [asyncio.create_task(forwarder.submit([1])) for _ in range(5)]
    await settle()
    with pytest.raises(HopelessError):
        await forwarder.submit([1], clock.now + 4)
    assert forwarder.counts.hopeless == 1
    passes.release(100)
    await asyncio.gather(*waiting)
    forwarder.close()


def test_threads_answer_raise_and_count() -> None:
    threads = DaemonThreads(2, "tests")
    gate = threading.Event()
    waits = threads.submit(gate.wait, 30)
    fails = threads.submit(int, "no number")
    with pytest.raises(ValueError, match="no number"):
        fails.result(30)
    assert threads.submit(max, 3, 4).result(30) == 4
    assert threads.busy == 1
    gate.set()
    assert waits.result(30) is True
    threads.shutdown()
    assert all(one.daemon for one in threading.enumerate() if one.name.startswith("tests_"))
