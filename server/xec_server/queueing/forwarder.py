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
from typing import Generic, TypeVar

from xec.engines.priority import Priority
from xec.errors import UsageError
from xec_server.queueing.clock import Clock
from xec_server.queueing.lanes import NOBODY, Path
from xec_server.queueing.outcomes import Answered, Counts, DrainingError
from xec_server.queueing.pace import Pace
from xec_server.queueing.room import Entry, Room

Item = TypeVar("Item")
Answer = TypeVar("Answer")


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
        self._compute = compute
        self._policy = policy
        self._largest = largest
        self._clock: Clock = clock or asyncio.get_running_loop()
        self._pace = Pace(policy.calls)
        self._room: Room[Item, list[Answered[Answer]]] = Room(policy.queue, self._pace, self._clock)
        self._running: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(policy.calls, thread_name_prefix="xec-forward")

    @property
    def counts(self) -> Counts:
        """What became of all events."""
        return self._room.counts

    @property
    def waiting(self) -> int:
        """Events in the queue."""
        return len(self._room)

    def waiting_in(self, lane: Priority) -> int:
        """Events in one lane of it."""
        return self._room.waiting(lane)

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
            QueueFullError: they do not fit into the queue, or the client's share of it; none was
                accepted.
            HopelessError: nor would their answers come in time.
            DeadlinePassedError: the deadline came before they could be passed on.
            DrainingError: the forwarder is stopping.
            Exception: what `compute` raised.
        """
        self.check(len(items), deadline, lane, path)
        step = self._largest()
        pieces = [items[start : start + step] for start in range(0, len(items), step)]
        with self._room.holding(pieces, deadline, lane, path) as entries:
            self._dispatch()
            answers = await asyncio.gather(*(entry.future for entry in entries))
        return [one for part in answers for one in part]

    def check(
        self,
        count: int,
        deadline: float | None = None,
        lane: Priority = Priority.ONLINE,
        path: Path = NOBODY,
    ) -> None:
        """Refuse `count` events as `submit` would just now, before they cost anything."""
        busy = len(self._running) >= self._policy.calls
        self._room.check(count, deadline, lane, path, 0 if busy else None)

    def _dispatch(self) -> None:
        while len(self._running) < self._policy.calls and (entry := self._room.take()) is not None:
            task = asyncio.get_running_loop().create_task(self._run(entry))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._dispatch()

    async def _run(self, entry: Entry[Item, list[Answered[Answer]]]) -> None:
        started = self._clock.time()
        answers = await self._answers(entry, started)
        seconds = self._clock.time() - started
        self._pace.learn(seconds / len(entry.items))
        size = len(entry.items)
        good, failures = _sorted_out(answers)
        self.counts.failed += len(failures)
        self.counts.computed += len(good)
        if entry.future.done():
            return
        if failures:
            entry.future.set_exception(failures[0])
        else:
            waited = started - entry.arrived
            entry.future.set_result([Answered(one, waited, seconds, size) for one in good])

    async def _answers(
        self, entry: Entry[Item, list[Answered[Answer]]], now: float
    ) -> Sequence[Answer | Exception]:
        loop = asyncio.get_running_loop()
        seconds = None if entry.answer_by is None else entry.answer_by - now
        try:
            answers = await loop.run_in_executor(self._threads, self._compute, entry.items, seconds)
        except Exception as error:  # whatever it is, it concerns these events and no others
            return [error] * len(entry.items)
        if len(answers) != len(entry.items):
            wrong = RuntimeError(f"{len(answers)} answers to {len(entry.items)} items")
            return [wrong] * len(entry.items)
        return answers

    async def drain(self) -> None:
        """Take no more events and wait until all that were accepted are answered."""
        self._room.closing = True
        while self._running:
            await asyncio.wait(self._running)

    def close(self) -> None:
        """Refuse what still waits and let the threads end."""
        self._room.closing = True
        self._room.give_up(DrainingError())
        self._threads.shutdown(wait=False, cancel_futures=True)


def _sorted_out(answers: Sequence[Answer | Exception]) -> tuple[list[Answer], list[Exception]]:
    good = [answer for answer in answers if not isinstance(answer, Exception)]
    return good, [answer for answer in answers if isinstance(answer, Exception)]
