"""Events that go on to an engine which collects batches by itself: bounded, never mixed up.

What comes together leaves together, up to the largest batch of the engine; nothing is collected
here. Everything runs on one event loop; only `compute` runs elsewhere, in a thread for each call
under way: the threads wait for the other process, and what else they do, encoding and decoding,
must not hold up the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

from xec.engines.priority import Priority
from xec.errors import UsageError
from xec_server.batcher import (
    Answer,
    Answered,
    Clock,
    Counts,
    DeadlinePassedError,
    DrainingError,
    Item,
    QueueFullError,
)
from xec_server.lanes import NOBODY, Lanes, Path
from xec_server.pace import Pace


@dataclass(frozen=True, slots=True)
class ForwardPolicy:
    """How events are passed on.

    Args:
        queue: events that may wait here in each lane; more are refused.
        calls: at the same time; the engine can only collect what has reached it.
    """

    queue: int = 1024
    calls: int = 32

    def __post_init__(self) -> None:
        if min(self.queue, self.calls) < 1:
            raise UsageError("The queue and the calls at a time are at least 1.")


@dataclass(slots=True, eq=False)
class _Call(Generic[Item, Answer]):
    items: Sequence[Item]
    future: asyncio.Future[list[Answered[Answer]]]
    arrived: float
    deadline: float | None


class Forwarder(Generic[Item, Answer]):
    """Hands items to `compute` as they come and the answers back to whoever waits for them.

    Args:
        compute: answers for items, in their order, within so many seconds (None: any); called in
            threads, `policy.calls` at a time. An exception in the place of an answer fails that
            item, one that is raised fails the items of that call.
        policy: how items are passed on.
        largest: items that one call may hold, as it is just now.
        clock: the running event loop by default.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item], float | None], Sequence[Answer | Exception]],
        policy: ForwardPolicy,
        largest: Callable[[], int],
        clock: Clock | None = None,
    ) -> None:
        self.counts = Counts()
        self._compute = compute
        self._policy = policy
        self._largest = largest
        self._clock: Clock = clock or asyncio.get_running_loop()
        self._queue: Lanes[_Call[Item, Answer]] = Lanes(lambda call: len(call.items))
        self._running: set[asyncio.Task[None]] = set()
        self._draining = False
        self._pace = Pace(policy.calls)
        self._threads = ThreadPoolExecutor(policy.calls, thread_name_prefix="xec-forward")

    @property
    def waiting(self) -> int:
        """Events in the queue."""
        return len(self._queue)

    def waiting_in(self, lane: Priority) -> int:
        """Events in one lane of it."""
        return self._queue.waiting(lane)

    async def submit(
        self,
        items: Sequence[Item],
        deadline: float | None = None,
        lane: Priority = Priority.ONLINE,
        path: Path = NOBODY,
    ) -> list[Answered[Answer]]:
        """Wait for the answers to `items`, in their order.

        Args:
            items: more than fit into one call are cut into several.
            deadline: by the clock; None waits as long as `compute` does.
            lane: where they wait.
            path: whose turns they use: a client's, and in these a call's.

        Raises:
            QueueFullError: they do not fit into the queue; none was accepted.
            DeadlinePassedError: the deadline came before they could be passed on.
            DrainingError: the forwarder is stopping.
            Exception: what `compute` raised.
        """
        if self._draining:
            raise DrainingError
        self._make_room(len(items), lane)
        step = self._largest()
        pieces = [items[start : start + step] for start in range(0, len(items), step)]
        calls = [self._call(piece, deadline) for piece in pieces]
        self.counts.accepted += len(items)
        for call in calls:
            self._queue.put(call, lane, path)
        self._dispatch()
        try:
            answers = await asyncio.gather(*(call.future for call in calls))
        finally:
            for call in calls:
                call.future.cancel()
        return [one for part in answers for one in part]

    def _call(self, items: Sequence[Item], deadline: float | None) -> _Call[Item, Answer]:
        future: asyncio.Future[list[Answered[Answer]]]
        future = asyncio.get_running_loop().create_future()
        return _Call(items, future, self._clock.time(), deadline)

    def _make_room(self, count: int, lane: Priority) -> None:
        if self._queue.waiting(lane) + count <= self._policy.queue:
            return
        self._queue.keep(lambda call: not self._is_lost(call))
        if self._queue.waiting(lane) + count > self._policy.queue:
            self.counts.refused += count
            raise QueueFullError(self._pace.retry_after(self.waiting))

    def _is_lost(self, call: _Call[Item, Answer]) -> bool:
        """Whether nobody waits for the call any more; one past its deadline is told so."""
        if call.future.done():
            self.counts.abandoned += len(call.items)
            return True
        if call.deadline is not None and call.deadline <= self._clock.time():
            self.counts.expired += len(call.items)
            call.future.set_exception(DeadlinePassedError())
            return True
        return False

    def _dispatch(self) -> None:
        while self._queue and len(self._running) < self._policy.calls:
            call = self._queue.take()
            if not self._is_lost(call):
                task = asyncio.get_running_loop().create_task(self._run(call))
                self._running.add(task)
                task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._dispatch()

    async def _run(self, call: _Call[Item, Answer]) -> None:
        started = self._clock.time()
        answers = await self._answers(call, started)
        seconds = self._clock.time() - started
        self._pace.learn(seconds / len(call.items))
        size = len(call.items)
        good, failures = _sorted_out(answers)
        self.counts.failed += len(failures)
        self.counts.computed += len(good)
        if call.future.done():
            return
        if failures:
            call.future.set_exception(failures[0])
        else:
            waited = started - call.arrived
            call.future.set_result([Answered(one, waited, seconds, size) for one in good])

    async def _answers(self, call: _Call[Item, Answer], now: float) -> Sequence[Answer | Exception]:
        loop = asyncio.get_running_loop()
        seconds = None if call.deadline is None else call.deadline - now
        try:
            answers = await loop.run_in_executor(self._threads, self._compute, call.items, seconds)
        except Exception as error:  # whatever it is, it concerns these events and no others
            return [error] * len(call.items)
        if len(answers) != len(call.items):
            wrong = RuntimeError(f"{len(answers)} answers to {len(call.items)} items")
            return [wrong] * len(call.items)
        return answers

    async def drain(self) -> None:
        """Take no more events and wait until all that were accepted are answered."""
        self._draining = True
        while self._running:
            await asyncio.wait(self._running)

    def close(self) -> None:
        """Refuse what still waits and let the threads end."""
        self._draining = True
        for call in self._queue:
            if not call.future.done():
                self.counts.failed += len(call.items)
                call.future.set_exception(DrainingError())
        self._queue.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _sorted_out(answers: Sequence[Answer | Exception]) -> tuple[list[Answer], list[Exception]]:
    good = [answer for answer in answers if not isinstance(answer, Exception)]
    return good, [answer for answer in answers if isinstance(answer, Exception)]
