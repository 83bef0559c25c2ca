"""Events that wait for the engine: collected into batches, bounded, never mixed up.

Everything here runs on one event loop; only `compute` runs elsewhere, in a few threads. Time
comes from a `Clock`, which an event loop is, so that tests turn it by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from xec.engines.priority import Priority
from xec.errors import UsageError
from xec_server.lanes import NOBODY, Lanes, Path
from xec_server.pace import Pace, hint, margin
from xec_server.share import Shares
from xec_server.threads import DaemonThreads

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_LOOK_SECONDS: Final = 0.5  # how soon a drain sees that the engine hangs


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not call."""
        ...


class Clock(Protocol):
    """Time in seconds from any zero; `asyncio.AbstractEventLoop` is one."""

    def time(self) -> float:
        """Now."""
        ...

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once, at `when`."""
        ...


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


class QueueFullError(Exception):
    """Too many events wait already; `retry_after` says in how many seconds to try again."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("The queue is full.")
        self.retry_after = retry_after


class HopelessError(QueueFullError):
    """What waits already takes longer than there is to the deadline."""


class EngineHangsError(Exception):
    """The engine does not come back from a call."""


class DeadlinePassedError(Exception):
    """The event's deadline passed before the engine could start on it, or would have meanwhile."""


class DrainingError(Exception):
    """The server is stopping and takes no more events."""


@dataclass(frozen=True, slots=True)
class Answered(Generic[Answer]):
    """An answer and how it came about."""

    value: Answer
    queue_seconds: float
    compute_seconds: float
    batch_size: int


@dataclass(slots=True)
class Counts:
    """Events by fate: accepted = computed + failed + expired + abandoned + unsettled.

    `hopeless` are those of the refused that would not have been in time.
    """

    accepted: int = 0
    refused: int = 0
    hopeless: int = 0
    computed: int = 0
    failed: int = 0
    expired: int = 0
    abandoned: int = 0

    @property
    def unsettled(self) -> int:
        """Accepted events that wait, or are in the engine."""
        return self.accepted - self.computed - self.failed - self.expired - self.abandoned


@dataclass(slots=True, eq=False)
class _Job(Generic[Item, Answer]):
    item: Item
    future: asyncio.Future[Answered[Answer]]
    arrived: float
    deadline: float


@dataclass(frozen=True, slots=True)
class _UnderWay(Generic[Item, Answer]):
    batch: list[_Job[Item, Answer]]
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
        self.counts = Counts()
        self._compute = compute
        self._policy = policy
        self._clock: Clock = clock or asyncio.get_running_loop()
        self._queue: Lanes[_Job[Item, Answer]] = Lanes()
        self._running: dict[asyncio.Task[None], _UnderWay[Item, Answer]] = {}
        self._timer: Timer | None = None
        self._draining = False
        self._shares = Shares(policy.queue)
        self._hangs = False
        self._abandoned = False
        self._pace = Pace(policy.workers)
        self._threads = DaemonThreads(policy.workers, "xec-batch")

    @property
    def waiting(self) -> int:
        """Events in the queue."""
        return len(self._queue)

    def waiting_in(self, lane: Priority) -> int:
        """Events in one lane of it."""
        return self._queue.waiting(lane)

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
        jobs = [self._job(item, deadline) for item in items]
        self.counts.accepted += len(jobs)
        for job in jobs:
            self._queue.put(job, lane, path)
        self._dispatch()
        try:
            with self._shares.taking(len(jobs), lane, path):
                return await asyncio.gather(*(job.future for job in jobs))
        finally:
            for job in jobs:
                job.future.cancel()

    def check(
        self,
        count: int,
        deadline: float | None = None,
        lane: Priority = Priority.ONLINE,
        path: Path = NOBODY,
    ) -> None:
        """Refuse `count` events as `submit` would just now, before they cost anything."""
        if self._draining:
            raise DrainingError
        if self._hangs:
            self.counts.refused += count
            raise EngineHangsError
        self._make_room(count, lane, path)
        self._refuse_hopeless(count, deadline, lane, path)

    def _job(self, item: Item, deadline: float | None) -> _Job[Item, Answer]:
        future: asyncio.Future[Answered[Answer]] = asyncio.get_running_loop().create_future()
        last = float("inf") if deadline is None else deadline
        return _Job(item, future, self._clock.time(), last)

    def _make_room(self, count: int, lane: Priority, path: Path) -> None:
        if self._has_room(count, lane, path):
            return
        self._queue.keep(lambda job: not self._is_lost(job))
        if not self._has_room(count, lane, path):
            self.counts.refused += count
            raise QueueFullError(self._pace.retry_after(self._queue.up_to(lane)))

    def _refuse_hopeless(
        self, count: int, deadline: float | None, lane: Priority, path: Path
    ) -> None:
        """Refuse what would be too late: it would take the place of others, for nothing.

        What can start at once is always tried, so that the pace is learned anew.
        """
        if deadline is None or (not self._queue and len(self._running) < self._policy.workers):
            return
        # What is under way is on average half done.
        under_way = sum(len(one.batch) for one in self._running.values()) // 2
        seconds = self._pace.time_for(self._queue.place(count, lane, path) + under_way)
        remaining = deadline - self._clock.time()
        if seconds > remaining - margin(remaining):
            self.counts.refused += count
            self.counts.hopeless += count
            raise HopelessError(hint(seconds))

    def _has_room(self, count: int, lane: Priority, path: Path) -> bool:
        waiting = self._queue.waiting(lane)
        fits = waiting + count <= self._policy.queue
        return fits and self._shares.allows(count, waiting, lane, path)

    def _is_lost(self, job: _Job[Item, Answer]) -> bool:
        """Whether nobody waits for the job any more; one past its deadline is told so."""
        if job.future.done():
            self.counts.abandoned += 1
            return True
        if job.deadline <= self._clock.time():
            self.counts.expired += 1
            job.future.set_exception(DeadlinePassedError())
            return True
        return False

    def _dispatch(self) -> None:
        """Start what may start now, and come back when the oldest event has waited enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and len(self._running) < self._policy.workers:
            due = self._due()
            full = len(self._queue) >= self._policy.size
            if not (full or self._draining or due <= self._clock.time()):
                self._timer = self._clock.call_at(due, self._dispatch)
                return
            batch = self._take()
            if batch:
                self._start(batch)

    def _due(self) -> float:
        """When the oldest event will have waited enough."""
        if not self._policy.delay:
            return self._clock.time()
        return min(job.arrived for job in self._queue.firsts()) + self._policy.delay

    def _take(self) -> list[_Job[Item, Answer]]:
        """The next ones, without those that would be late; if all would be, some are tried."""
        batch: list[_Job[Item, Answer]] = []
        late: list[_Job[Item, Answer]] = []
        soon = self._clock.time() + self._pace.one_call(self._policy.size)
        while self._queue and len(batch) < self._policy.size:
            job = self._queue.take()
            if not self._is_lost(job):
                (late if job.deadline < soon else batch).append(job)
        tried = [] if batch else late[: self._policy.size]
        for job in late[len(tried) :]:
            self.counts.expired += 1
            job.future.set_exception(DeadlinePassedError())
        return batch or tried

    def _start(self, batch: list[_Job[Item, Answer]]) -> None:
        under_way = _UnderWay(batch, self._clock.time())
        task = asyncio.get_running_loop().create_task(self._run(under_way))
        self._running[task] = under_way
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._dispatch()

    async def _run(self, one: _UnderWay[Item, Answer]) -> None:
        answers = await self._answers([job.item for job in one.batch])
        if self._abandoned:
            return
        seconds = self._clock.time() - one.started
        self._pace.learn(seconds / len(one.batch))
        for job, answer in zip(one.batch, answers, strict=True):
            self._settle(job, answer, one.started, seconds, len(one.batch))

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
        job: _Job[Item, Answer],
        answer: Answer | Exception,
        started: float,
        seconds: float,
        batch_size: int,
    ) -> None:
        failed = isinstance(answer, Exception)
        self.counts.failed += failed
        self.counts.computed += not failed
        if job.future.done():
            return
        if isinstance(answer, Exception):
            job.future.set_exception(answer)
        else:
            waited = started - job.arrived
            job.future.set_result(Answered(answer, waited, seconds, batch_size))

    def check_engine(self, limit: float) -> bool:
        """Whether an engine call can come back; asked again and again.

        Who waits for a call that is under way for longer than `limit` seconds is told. If all are,
        so is everyone who waits, and new events are refused, until one comes back.
        """
        last = self._clock.time() - limit
        hanging = [one for one in self._running.values() if one.started < last]
        for one in hanging:
            for job in one.batch:
                if not job.future.done():
                    job.future.set_exception(EngineHangsError())
        self._hangs = len(hanging) >= self._policy.workers
        if self._hangs:
            self._give_up_waiting(EngineHangsError())
        return not self._hangs

    def _give_up_waiting(self, why: Exception) -> None:
        for job in self._queue:
            if job.future.done():
                self.counts.abandoned += 1
            else:
                self.counts.failed += 1
                job.future.set_exception(why)
        self._queue.clear()

    async def drain(self) -> None:
        """Take no more events and wait until all that were accepted are answered."""
        self._draining = True
        self._dispatch()
        while self._running and not self._hangs:
            await asyncio.wait(self._running, timeout=_LOOK_SECONDS)

    def close(self) -> None:
        """Refuse what still waits and let the threads end."""
        self._draining = True
        self._give_up_waiting(DrainingError())
        self._threads.shutdown(wait=False, cancel_futures=True)

    def abandon(self) -> None:
        """Refuse what is under way, too: nobody waits for the engine any more."""
        self._abandoned = True
        for one in self._running.values():
            for job in one.batch:
                self.counts.failed += 1
                if not job.future.done():
                    job.future.set_exception(DrainingError())
        self._running.clear()
