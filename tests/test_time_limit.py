"""One time limit for many tasks: who stays too long is told, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from xec_server.calls.refusal import Reason, Refusal
from xec_server.calls.time_limit import TimeLimit

SHORT = 0.02  # seconds


def limit(seconds: float = SHORT) -> TimeLimit:
    return TimeLimit(seconds, Reason.DEADLINE_PASSED, "too long")


async def stay(within: TimeLimit, end: asyncio.Event) -> str:
    with within():
        await end.wait()
    return "left"


async def test_who_stays_too_long_is_told() -> None:
    with pytest.raises(Refusal) as told:
        await stay(limit(), asyncio.Event())
    assert (told.value.reason, told.value.message) == (Reason.DEADLINE_PASSED, "too long")
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()  # the task goes on as if nothing had been


async def test_each_has_the_whole_time_and_those_who_left_are_left_alone() -> None:
    """Many who come and go, some of whom stay; the timer is set for who is due next."""
    within, end, never = limit(), asyncio.Event(), asyncio.Event()
    began: dict[int, float] = {}
    ended: dict[int, float] = {}
    clock = asyncio.get_running_loop().time

    async def one(number: int) -> str:
        began[number] = clock()
        try:
            return await stay(within, end if number % 2 else never)
        finally:
            ended[number] = clock()

    end.set()
    tasks = []
    for number in range(40):
        tasks.append(asyncio.create_task(one(number)))
        await asyncio.sleep(SHORT / 20)  # they come one after another
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert found[1::2] == ["left"] * 20
    assert all(isinstance(outcome, Refusal) for outcome in found[::2])
    assert all(ended[number] - began[number] >= SHORT for number in range(0, 40, 2))


async def test_the_last_one_is_told_as_well() -> None:
    within, never = limit(), asyncio.Event()
    first = asyncio.create_task(stay(within, never))
    await asyncio.sleep(SHORT / 4)
    last = asyncio.create_task(stay(within, never))
    async with asyncio.timeout(30):
        found = await asyncio.gather(first, last, return_exceptions=True)
    assert [type(outcome) for outcome in found] == [Refusal, Refusal]


async def test_who_is_over_and_ends_by_itself_has_ended_so() -> None:
    with limit()(), pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_a_task_that_others_cancel_stays_cancelled() -> None:
    task = asyncio.create_task(stay(limit(60.0), asyncio.Event()))
    await asyncio.sleep(0)  # it is inside
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_is_cancelled_and_over_at_once_stays_cancelled() -> None:
    within = limit(60.0)
    inside = asyncio.Event()

    async def both() -> None:
        with within() as this:
            inside.set()
            this.end()
            await asyncio.Event().wait()

    task = asyncio.create_task(both())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_its_own_passes_as_it_is() -> None:
    with pytest.raises(KeyError), limit(60.0)():
        raise KeyError("mine")


async def test_limits_within_limits_are_told_apart() -> None:
    outer = TimeLimit(60.0, Reason.DEADLINE_PASSED, "outer")
    inner = TimeLimit(SHORT, Reason.REQUEST_INCOMPLETE, "inner")
    with pytest.raises(Refusal) as told, outer(), inner():
        await asyncio.Event().wait()
    assert told.value.message == "inner"
