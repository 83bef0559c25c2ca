"""Two ways to send: by a schedule whatever comes back, and one after the other."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from xec_client.errors import ClientError
from xec_loadtest.arrivals import Times
from xec_loadtest.record import Notebook, Observer, Outcome, Record, ignore, outcome_of

Ask: TypeAlias = Callable[[int], Awaitable[object]]
"""Sends the event of this number and waits for its answer; raises `ClientError` without one."""


async def _outcome(ask: Ask, number: int) -> Outcome:
    try:
        await ask(number)
    except ClientError as error:
        return outcome_of(error)
    return Outcome.ANSWERED


async def open_loop(
    ask: Ask, intended: Times, seconds: float, observe: Observer = ignore
) -> Record:
    """Send each event at its intended time, whether or not earlier ones have been answered.

    Returns once all of them have ended. Nothing bounds how many are under way.

    Args:
        ask: sends one event.
        intended: seconds from now, rising.
        seconds: length of the schedule.
        observe: is told of each call that has ended.
    """
    notebook, start = Notebook(), time.perf_counter()

    def now() -> float:
        return time.perf_counter() - start

    async def one(number: int, due: float) -> None:
        sent = now()
        outcome = await _outcome(ask, number)
        notebook.note(due, sent, now(), outcome)
        observe(outcome)

    async with asyncio.TaskGroup() as calls:
        for number, due in enumerate(intended.tolist()):
            await asyncio.sleep(max(0.0, due - now()))
            calls.create_task(one(number, due))
    return notebook.record(seconds)


async def closed_loop(ask: Ask, callers: int, seconds: float, observe: Observer = ignore) -> Record:
    """So many callers, each of which sends its next event when the last one has been answered.

    Finds what a server can do; hides its stalls, since nothing is sent during one.

    Args:
        ask: sends one event.
        callers: at the same time.
        seconds: after which no event is sent any more.
        observe: is told of each call that has ended.
    """
    notebook, start, numbers = Notebook(), time.perf_counter(), itertools.count()

    def now() -> float:
        return time.perf_counter() - start

    async def caller() -> None:
        while (sent := now()) < seconds:
            outcome = await _outcome(ask, next(numbers))
            notebook.note(sent, sent, now(), outcome)
            observe(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return notebook.record(seconds)
