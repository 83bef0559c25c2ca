"""A clock that is turned by hand and an engine that is a gate, so that no test sleeps."""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xec_server.queueing.batcher import Batcher, BatchPolicy
from xec_server.queueing.outcomes import Answered


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
