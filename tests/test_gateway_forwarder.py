"""Events that go on without being collected: order, bounds, deadlines, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from support_batcher import FakeClock, answers, settle, values
from xec.errors import UsageError
from xec_server.queueing.forwarder import Forwarder, ForwardPolicy
from xec_server.queueing.outcomes import DeadlinePassedError, DrainingError, QueueFullError


class Gate:
    """Records its calls and answers when it is let through."""

    def __init__(self, open_: bool = False) -> None:
        self.calls: list[tuple[list[int], float | None]] = []
        self.started = threading.Semaphore(0)
        self.passes = threading.Semaphore(10**6 if open_ else 0)

    def __call__(self, items: Sequence[int], seconds: float | None) -> list[str | Exception]:
        self.calls.append((list(items), seconds))
        self.started.release()
        assert self.passes.acquire(timeout=30)
        return [f"answer {item}" for item in items]

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=30)


def make(
    gate: Any, clock: FakeClock | None = None, size: int = 64, **policy: int
) -> Forwarder[int, str]:
    return Forwarder(gate, ForwardPolicy(**policy), lambda: size, clock)


def submit(
    forwarder: Forwarder[int, str], *items: int, deadline: float | None = None
) -> asyncio.Task[Any]:
    return asyncio.create_task(forwarder.submit(items, deadline))


async def test_what_comes_together_leaves_together() -> None:
    gate = Gate(open_=True)
    forwarder = make(gate, size=4)
    answered = await forwarder.submit([1, 2, 3])
    assert values(answered) == answers([1, 2, 3])
    assert {one.batch_size for one in answered} == {3}
    assert gate.calls == [([1, 2, 3], None)]


async def test_nothing_is_collected() -> None:
    """The batcher would make one call of what waits; here each stays its own."""
    gate = Gate()
    forwarder = make(gate, size=64, calls=1)
    tasks = [submit(forwarder, item) for item in range(5)]
    await gate.has_started()
    gate.passes.release(5)
    await asyncio.gather(*tasks)
    assert [items for items, _ in gate.calls] == [[0], [1], [2], [3], [4]]


async def test_more_than_the_engine_takes_is_cut_and_comes_back_in_order() -> None:
    gate = Gate(open_=True)
    forwarder = make(gate, size=4, calls=3)
    answered = await forwarder.submit(range(11))
    assert values(answered) == answers(range(11))
    assert sorted(len(items) for items, _ in gate.calls) == [3, 4, 4]


async def test_calls_run_side_by_side_up_to_the_bound() -> None:
    gate = Gate()
    forwarder = make(gate, calls=2)
    tasks = [submit(forwarder, item) for item in range(3)]
    await gate.has_started()
    await gate.has_started()
    await settle()
    assert len(gate.calls) == 2
    assert forwarder.waiting == 1
    gate.passes.release(3)
    await asyncio.gather(*tasks)
    assert len(gate.calls) == 3


async def test_the_rest_of_the_deadline_goes_along() -> None:
    clock = FakeClock()
    gate = Gate()
    forwarder = make(gate, clock, calls=1)
    first = submit(forwarder, 1, deadline=5.0)
    await gate.has_started()
    second = submit(forwarder, 2, deadline=5.0)
    third = submit(forwarder, 3, deadline=1.5)
    await clock.advance(2.0)
    gate.passes.release(10)
    await asyncio.wait([first, second, third])
    assert gate.calls == [([1], 5.0), ([2], 3.0)]
    assert isinstance(third.exception(), DeadlinePassedError)
    assert forwarder.counts.expired == 1


async def test_a_full_queue_refuses_all_of_a_call() -> None:
    gate = Gate()
    forwarder = make(gate, queue=3, calls=1)
    running = submit(forwarder, 1)
    await gate.has_started()
    waiting = submit(forwarder, 2, 3)
    await settle()
    with pytest.raises(QueueFullError) as caught:
        await forwarder.submit([4, 5])
    assert 0.05 <= caught.value.retry_after <= 5
    gate.passes.release(10)
    await asyncio.gather(running, waiting)
    counts = forwarder.counts
    assert (counts.accepted, counts.refused, counts.computed) == (3, 2, 3)


async def test_who_no_longer_waits_makes_room_and_is_not_computed() -> None:
    gate = Gate()
    forwarder = make(gate, queue=2, calls=1)
    running = submit(forwarder, 1)
    await gate.has_started()
    lost = submit(forwarder, 2, 3)
    await settle()
    lost.cancel()
    await asyncio.wait([lost])
    other = submit(forwarder, 4, 5)
    gate.passes.release(10)
    await asyncio.gather(running, other)
    assert [items for items, _ in gate.calls] == [[1], [4, 5]]
    assert forwarder.counts.abandoned == 2


async def test_a_failure_concerns_its_own_call() -> None:
    def fail(items: Sequence[int], seconds: float | None) -> list[str | Exception]:
        if 13 in items:
            raise ValueError("13")
        return [KeyError("7") if item == 7 else f"answer {item}" for item in items]

    forwarder = make(fail)
    tasks = [submit(forwarder, *items) for items in ([1, 2], [12, 13], [6, 7])]
    await asyncio.wait(tasks)
    assert values(tasks[0].result()) == answers([1, 2])
    assert str(tasks[1].exception()) == "13"
    assert isinstance(tasks[2].exception(), KeyError)
    assert (forwarder.counts.computed, forwarder.counts.failed) == (3, 3)


async def test_a_wrong_number_of_answers_is_a_defect() -> None:
    forwarder = make(lambda items, seconds: ["one"])
    with pytest.raises(RuntimeError, match="1 answers to 2 items"):
        await forwarder.submit([1, 2])


async def test_draining_answers_what_was_accepted() -> None:
    gate = Gate()
    forwarder = make(gate, calls=1)
    tasks = [submit(forwarder, item) for item in range(3)]
    await gate.has_started()
    draining = asyncio.create_task(forwarder.drain())
    await settle()
    with pytest.raises(DrainingError):
        await forwarder.submit([9])
    gate.passes.release(10)
    await draining
    assert [values(task.result()) for task in tasks] == [answers([item]) for item in range(3)]


async def test_closing_refuses_what_still_waits() -> None:
    gate = Gate()
    forwarder = make(gate, calls=1)
    running, waiting = submit(forwarder, 1), submit(forwarder, 2)
    await gate.has_started()
    forwarder.close()
    with pytest.raises(DrainingError):
        await waiting
    gate.passes.release(10)
    assert values(await running) == answers([1])


@pytest.mark.parametrize("policy", [{"queue": 0}, {"calls": 0}])
def test_impossible_policies(policy: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        ForwardPolicy(**policy)
