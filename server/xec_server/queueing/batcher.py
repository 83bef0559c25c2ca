"""Events that wait for the engine: collected into batches, bounded, never mixed up.

Everything here runs on one event loop; only `compute` runs elsewhere, in a few threads. Time
comes from a `Clock`, which an event loop is, so that tests turn it by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from xec.engines.priority import Priority
from xec.errors import UsageError
from xec_server.queueing.clock import Clock, Timer
from xec_server.queueing.lanes import NOBODY, Path
from xec_server.queueing.outcomes import Answered, Counts, DrainingError, EngineHangsError
from xec_server.queueing.pace import Pace
from xec_server.queueing.room import Entry, Room
from xec_server.queueing.threads import DaemonThreads

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_LOOK_SECONDS: Final = 0.5  # how soon a drain sees that the engine hangs


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How events are collected.

    Args:
        size: events in one engine call, at most.
        delay: seconds that an event waits for others while a worker is free; events also
            collect while all workers are busy, so 0 is a good choice.
        queue: events that may wait in each lane; more are refused. Each has its own bound, so that
            what can wait does not take the room of what cannot.
        workers: engine calls at the same time.
    """

    size: int = 4
    delay: float = 0.0
    queue: int = 1024
    workers: int = 1

    def __post_init__(self) -> None:
        if min(self.size, self.queue, self.workers) < 1 or self.delay < 0:
            raise UsageError("Batch size, queue and workers are at least 1, the delay at least 0.")


@dataclass(frozen=True, slots=True)
class _UnderWay(Generic[Item, Answer]):
    batch: list[Entry[Item, Answered[Answer]]]
    started: float


class Batcher(Generic[Item, Answer]):
    """Hands items to `compute` in batches and each answer back to whoever waits for it.

    Args:
        compute: answers for items, in their order; called in threads, `policy.workers` at a
            time. An exception in the place of an answer fails that item, one that is raised
            fails the items of that call.
        policy: how items are collected.
        clock: the running event loop by default.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Answer | Exception]],
        policy: BatchPolicy,
        clock: Clock | None = None,
    ) -> None:
        self._compute = compute
        self._policy = policy
        self._clock: Clock = clock or asyncio.get_running_loop()
        self._pace = Pace(policy.workers)
        self._room: Room[Item, Answered[Answer]] = Room(policy.queue, self._pace, self._clock)
        self._running: dict[asyncio.Task[None], _UnderWay[Item, Answer]] = {}
        self._timer: Timer | None = None
        self._hangs = False
        self._abandoned = False
        self._threads = DaemonThreads(policy.workers, "xec-batch")

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

    @property
    def busy(self) -> int:
        """Threads that are in the engine, also after the end."""
        return self._threads.busy

    async def submit(
        self,
        items: Sequence[Item],
        deadline: float | None = None,
        lane: Priority = Priority.ONLINE,
        path: Path = NOBODY,
    ) -> list[Answered[Answer]]:
        """Wait for the answers to `items`, in their order.

        Args:
            items: they may be split over engine calls and share them with others.
            deadline: by the clock; None waits for ever.
            lane: where they wait.
            path: whose turns they use: a client's, and in these a call's.

        Raises:
            QueueFullError: they do not fit into the queue, or the client's share of it; none was
                accepted.
            HopelessError: nor would their answers come in time.
            EngineHangsError: the engine does not come back from a call.
            DeadlinePassedError: the deadline came before the engine could start.
            DrainingError: the batcher is stopping.
            Exception: what `compute` raised.
        """
        self.check(len(items), deadline, lane, path)
        with self._room.holding([(item,) for item in items], deadline, lane, path) as entries:
            self._dispatch()
            return await asyncio.gather(*(entry.future for entry in entries))

    def check(
        self,
        count: int,
        deadline: float | None = None,
        lane: Priority = Priority.ONLINE,
        path: Path = NOBODY,
    ) -> None:
        """Refuse `count` events as `submit` would just now, before they cost anything."""
        if self._hangs and not self._room.closing:
            self.counts.refused += count
            raise EngineHangsError
        self._room.check(count, deadline, lane, path, self._under_way())

    def _under_way(self) -> int | None:
        if len(self._running) < self._policy.workers:
            return None
        # What is under way is on average half done.
        return sum(len(one.batch) for one in self._running.values()) // 2

    def _dispatch(self) -> None:
        """Start what may start now, and come back when the oldest event has waited enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._room and len(self._running) < self._policy.workers:
            due = self._due()
            full = len(self._room) >= self._policy.size
            if not (full or self._room.closing or due <= self._clock.time()):
                self._timer = self._clock.call_at(due, self._dispatch)
                return
            batch = self._take()
            if batch:
                self._start(batch)

    def _due(self) -> float:
        """When the oldest event will have waited enough."""
        if not self._policy.delay:
            return self._clock.time()
        return self._room.oldest() + self._policy.delay

    def _take(self) -> list[Entry[Item, Answered[Answer]]]:
        """The next ones, without those that would be late; if all would be, some are tried."""
        batch: list[Entry[Item, Answered[Answer]]] = []
        late: list[Entry[Item, Answered[Answer]]] = []
        soon = self._clock.time() + self._pace.one_call(self._policy.size)
        while len(batch) < self._policy.size and (entry := self._room.take()) is not None:
            (late if entry.deadline < soon else batch).append(entry)
        tried = [] if batch else late[: self._policy.size]
        for entry in late[len(tried) :]:
            self._room.expire(entry)
        return batch or tried

    def _start(self, batch: list[Entry[Item, Answered[Answer]]]) -> None:
        under_way = _UnderWay(batch, self._clock.time())
        task = asyncio.get_running_loop().create_task(self._run(under_way))
        self._running[task] = under_way
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._dispatch()

    async def _run(self, one: _UnderWay[Item, Answer]) -> None:
        answers = await self._answers([item for entry in one.batch for item in entry.items])
        if self._abandoned:
            return
        seconds = self._clock.time() - one.started
        self._pace.learn(seconds / len(one.batch))
        for entry, answer in zip(one.batch, answers, strict=True):
            self._settle(entry, answer, one.started, seconds, len(one.batch))

    async def _answers(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._threads, self._compute, items)
        except Exception as error:  # whatever it is, it concerns these events and no others
            return [error] * len(items)
        if len(answers) != len(items):
            return [RuntimeError(f"{len(answers)} answers to {len(items)} items")] * len(items)
        return answers

    def _settle(
        self,
        entry: Entry[Item, Answered[Answer]],
        answer: Answer | Exception,
        started: float,
        seconds: float,
        batch_size: int,
    ) -> None:
        failed = isinstance(answer, Exception)
        self.counts.failed += failed
        self.counts.computed += not failed
        if entry.future.done():
            return
        if isinstance(answer, Exception):
            entry.future.set_exception(answer)
        else:
            waited = started - entry.arrived
            entry.future.set_result(Answered(answer, waited, seconds, batch_size))

    def check_engine(self, limit: float) -> bool:
        """Whether an engine call can come back; asked again and again.

        Who waits for a call that is under way for longer than `limit` seconds is told. If all are,
        so is everyone who waits, and new events are refused, until one comes back.
        """
        last = self._clock.time() - limit
        hanging = [one for one in self._running.values() if one.started < last]
        for one in hanging:
            for entry in one.batch:
                if not entry.future.done():
                    entry.future.set_exception(EngineHangsError())
        self._hangs = len(hanging) >= self._policy.workers
        if self._hangs:
            self._room.give_up(EngineHangsError())
        return not self._hangs

    async def drain(self) -> None:
        """Take no more events and wait until all that were accepted are answered."""
        self._room.closing = True
        self._dispatch()
        while self._running and not self._hangs:
            await asyncio.wait(self._running, timeout=_LOOK_SECONDS)

    def close(self) -> None:
        """Refuse what still waits and let the threads end."""
        self._room.closing = True
        self._room.give_up(DrainingError())
        self._threads.shutdown(wait=False, cancel_futures=True)

    def abandon(self) -> None:
        """Refuse what is under way, too: nobody waits for the engine any more."""
        self._abandoned = True
        for one in self._running.values():
            for entry in one.batch:
                self.counts.failed += 1
                if not entry.future.done():
                    entry.future.set_exception(DrainingError())
        self._running.clear()
