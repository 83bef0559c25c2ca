"""The batcher: batches by size and delay, bounded, with deadlines, and never a mix-up.

Time is turned by hand (`FakeClock`) and the engine is a gate that the test opens, so nothing
here sleeps.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from xec_server.batcher import (
    Answered,
    Batcher,
    BatchPolicy,
    DeadlinePassedError,
    DrainingError,
    QueueFullError,
)

from xec.errors import EngineError, UsageError


@dataclass(order=True)
class FakeTimer:
    when: float
    order: int
    callback: Callable[[], object] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
        timer = FakeTimer(when, len(self.timers), callback)
        heapq.heappush(self.timers, timer)
        return timer

    async def advance(self, seconds: float) -> None:
        await settle()
        end = self.now + seconds
        while self.timers and self.timers[0].when <= end:
            timer = heapq.heappop(self.timers)
            self.now = timer.when
            if not timer.cancelled:
                timer.callback()
            await settle()
        self.now = end
        await settle()


async def settle() -> None:
    """Let the event loop run what is ready."""
    for _ in range(20):
        await asyncio.sleep(0)


class Gate:
    """An engine that records its batches and answers when it is let through."""

    def __init__(self, open_: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Semaphore(0)
        self.passes = threading.Semaphore(10**6 if open_ else 0)

    def __call__(self, items: Sequence[int]) -> list[str | Exception]:
        self.batches.append(list(items))
        self.started.release()
        assert self.passes.acquire(timeout=30)
        return [f"answer {item}" for item in items]

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=30)


def answers(items: Sequence[int]) -> list[str]:
    return [f"answer {item}" for item in items]


def values(answered: list[Answered[str]]) -> list[str]:
    return [one.value for one in answered]


def make(
    engine: Callable[[Sequence[int]], list[str | Exception]],
    clock: FakeClock | None = None,
    **policy: float,
) -> Batcher[int, str]:
    return Batcher(engine, BatchPolicy(**policy), clock)  # type: ignore[arg-type]


def submit(
    batcher: Batcher[int, str], *items: int, deadline: float | None = None
) -> asyncio.Task[list[Answered[str]]]:
    return asyncio.create_task(batcher.submit(items, deadline))


async def test_an_idle_engine_starts_at_once_without_delay() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = make(gate, clock, size=4, delay=0)
    task = submit(batcher, 1)
    await gate.has_started()
    gate.passes.release()
    assert values(await task) == ["answer 1"]
    assert gate.batches == [[1]]
    assert clock.now == 0


async def test_events_collect_while_the_engine_is_busy() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=4, delay=0, workers=1)
    tasks = [submit(batcher, 0)]
    await gate.has_started()
    tasks += [submit(batcher, item) for item in range(1, 7)]
    await settle()
    gate.passes.release(3)
    assert [values(await task) for task in tasks] == [[f"answer {item}"] for item in range(7)]
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_the_delay_is_waited_for_and_a_full_batch_is_not() -> None:
    gate, clock = Gate(open_=True), FakeClock()
    batcher = make(gate, clock, size=3, delay=0.010)
    first = submit(batcher, 1)
    await clock.advance(0.004)
    second = submit(batcher, 2)
    await clock.advance(0.0059)
    assert gate.batches == []
    await clock.advance(0.0002)  # counted from the oldest event
    assert values(await first) + values(await second) == ["answer 1", "answer 2"]
    assert gate.batches == [[1, 2]]
    full = submit(batcher, 3, 4, 5)
    assert values(await full) == ["answer 3", "answer 4", "answer 5"]
    assert gate.batches[1:] == [[3, 4, 5]]


async def test_workers_run_side_by_side_and_no_more_of_them() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=2, workers=2)
    task = submit(batcher, *range(6))
    await gate.has_started()
    await gate.has_started()
    await settle()
    assert len(gate.batches) == 2
    gate.passes.release(3)
    assert values(await task) == answers(range(6))


async def test_groups_are_split_and_merged_and_answered_in_order() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=4)
    tasks = [submit(batcher, 0), submit(batcher, *range(1, 7)), submit(batcher, 7, 8)]
    await gate.has_started()
    gate.passes.release(9)
    for task, items in zip(tasks, [[0], range(1, 7), [7, 8]], strict=True):
        assert values(await task) == answers(items)
    assert [len(batch) for batch in gate.batches] == [1, 4, 4]


async def test_nothing_to_do_is_done() -> None:
    gate = Gate()
    assert await make(gate).submit([]) == []
    assert gate.batches == []


async def test_timings_say_how_long_and_with_how_many() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = make(gate, clock, size=2, delay=0)
    first = submit(batcher, 0)
    await gate.has_started()
    second = submit(batcher, 1, 2)
    await clock.advance(0.25)
    gate.passes.release()
    assert (await first)[0].compute_seconds == pytest.approx(0.25)
    await gate.has_started()
    await clock.advance(0.5)
    gate.passes.release()
    one = (await second)[0]
    assert (one.queue_seconds, one.compute_seconds, one.batch_size) == (
        pytest.approx(0.25),
        pytest.approx(0.5),
        2,
    )


async def test_an_expired_event_never_reaches_the_engine() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = make(gate, clock, size=4)
    busy = submit(batcher, 0)
    await gate.has_started()
    late = submit(batcher, 1, deadline=0.1)
    patient = submit(batcher, 2, deadline=0.3)
    await clock.advance(0.2)
    gate.passes.release(2)
    with pytest.raises(DeadlinePassedError):
        await late
    assert values(await patient) == ["answer 2"]
    await busy
    assert gate.batches == [[0], [2]]
    assert batcher.counts.expired == 1
    assert batcher.counts.computed == 2


async def test_a_deadline_in_the_past_is_refused_although_the_engine_is_idle() -> None:
    gate, clock = Gate(open_=True), FakeClock()
    await clock.advance(5)
    batcher = make(gate, clock)
    with pytest.raises(DeadlinePassedError):
        await batcher.submit([1], deadline=4.9)
    assert gate.batches == []


async def test_a_cancelled_call_is_dropped_before_compute() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=4)
    busy = submit(batcher, 0)
    await gate.has_started()
    gone, stays = submit(batcher, 1, 2), submit(batcher, 3)
    await settle()
    gone.cancel()
    await settle()
    gate.passes.release(2)
    assert values(await stays) == ["answer 3"]
    await busy
    assert gate.batches == [[0], [3]]
    assert batcher.counts.abandoned == 2


async def test_a_call_that_is_cancelled_in_compute_disturbs_nobody() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=2)
    gone = submit(batcher, 0)
    await gate.has_started()
    gone.cancel()
    stays = submit(batcher, 1)
    gate.passes.release(2)
    assert values(await stays) == ["answer 1"]
    assert gone.cancelled()


async def test_the_queue_is_bounded_and_refuses_whole_groups() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=2, queue=5)
    tasks = [submit(batcher, 0, 1), submit(batcher, *range(2, 6))]
    await gate.has_started()
    with pytest.raises(QueueFullError) as caught:
        await batcher.submit([6, 7])
    assert 0 < caught.value.retry_after <= 5
    assert batcher.waiting == 4
    tasks.append(submit(batcher, 8))  # one still fits
    await settle()
    assert batcher.waiting == 5
    gate.passes.release(9)
    for task in tasks:
        await task
    assert batcher.counts.refused == 2
    assert 6 not in {item for batch in gate.batches for item in batch}


async def test_abandoned_events_make_room() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=1, queue=2)
    busy = submit(batcher, 0)
    await gate.has_started()
    gone = submit(batcher, 1, 2)
    await settle()
    gone.cancel()
    await settle()
    new = submit(batcher, 3, 4)
    await settle()
    gate.passes.release(9)
    assert values(await new) == ["answer 3", "answer 4"]
    await busy


async def test_a_failing_call_fails_its_own_events_only() -> None:
    def engine(items: Sequence[int]) -> list[str | Exception]:
        if 13 in items:
            raise EngineError("boom")
        return answers(items)  # type: ignore[return-value]

    batcher = make(engine, FakeClock(), size=1, workers=2)
    tasks = [submit(batcher, item) for item in range(20)]
    for item, task in enumerate(tasks):
        if item == 13:
            with pytest.raises(EngineError, match="boom"):
                await task
        else:
            assert values(await task) == [f"answer {item}"]
    assert (batcher.counts.failed, batcher.counts.computed) == (1, 19)


async def test_an_exception_as_an_answer_fails_one_event() -> None:
    def engine(items: Sequence[int]) -> list[str | Exception]:
        return [ArithmeticError("nan") if item == 1 else str(item) for item in items]

    batcher = make(engine, FakeClock(), size=3)
    tasks = [submit(batcher, item) for item in range(3)]
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks] == [
        type(None),
        ArithmeticError,
        type(None),
    ]


async def test_a_wrong_number_of_answers_is_noticed() -> None:
    batcher = make(lambda items: ["one too many"] * (len(items) + 1), FakeClock())
    with pytest.raises(RuntimeError, match="2 answers to 1 items"):
        await batcher.submit([1])


async def test_drain_finishes_what_was_accepted_and_takes_no_more() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = make(gate, clock, size=2, delay=60, workers=1)
    tasks = [submit(batcher, 0, 1), submit(batcher, 2)]
    await gate.has_started()
    drained = asyncio.create_task(batcher.drain())
    await settle()
    with pytest.raises(DrainingError):
        await batcher.submit([9])
    assert not drained.done()
    gate.passes.release(2)
    await drained
    assert [values(await task) for task in tasks] == [["answer 0", "answer 1"], ["answer 2"]]
    assert clock.now == 0  # the delay is not waited for any more


async def test_close_refuses_what_still_waits() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=1)
    running, waiting = submit(batcher, 0), submit(batcher, 1)
    await gate.has_started()
    batcher.close()
    with pytest.raises(DrainingError):
        await waiting
    gate.passes.release()
    assert values(await running) == ["answer 0"]


@pytest.mark.parametrize("bad", [{"size": 0}, {"queue": 0}, {"workers": 0}, {"delay": -1}])
def test_impossible_policies(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        BatchPolicy(**bad)  # type: ignore[arg-type]


# --- no event is ever answered with another's result --------------------------------------------


def digest(item: bytes) -> str:
    return hashlib.sha256(item).hexdigest()


def honest(items: Sequence[bytes]) -> list[str | Exception]:
    return [digest(item) for item in items]


def swaps_the_last_two(items: Sequence[bytes]) -> list[str | Exception]:
    hashes = honest(items)
    return [*hashes[:-2], *reversed(hashes[-2:])]


async def mix_ups(
    engine: Callable[[Sequence[bytes]], list[str | Exception]], seed: int, groups: int
) -> tuple[int, Batcher[bytes, str]]:
    """Answers that are not the hash of their event, among groups of random sizes."""
    chance = random.Random(seed)
    policy = BatchPolicy(size=chance.randint(1, 9), queue=10**6, workers=3)
    batcher: Batcher[bytes, str] = Batcher(engine, policy)

    async def one_client() -> int:
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        items = [chance.randbytes(16) for _ in range(chance.randint(1, 12))]
        answered = await batcher.submit(items)
        return sum(a.value != digest(item) for a, item in zip(answered, items, strict=True))

    tasks = [asyncio.create_task(one_client()) for _ in range(groups)]
    gone = [task for task in tasks if chance.random() < 0.1]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == len(gone)
    return sum(result for result in results if isinstance(result, int)), batcher


@pytest.mark.parametrize("seed", range(4))
async def test_thousands_of_events_get_their_own_answers(seed: int) -> None:
    wrong, batcher = await mix_ups(honest, seed, groups=800)
    await batcher.drain()
    assert wrong == 0
    counts = batcher.counts
    assert counts.accepted > 4000
    assert counts.accepted == counts.computed + counts.abandoned


async def test_the_test_above_notices_an_engine_that_mixes_up() -> None:
    wrong, _ = await mix_ups(swaps_the_last_two, seed=0, groups=50)
    assert wrong > 0
