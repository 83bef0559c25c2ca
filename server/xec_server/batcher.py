"""Events that wait for the engine: collected into batches, bounded, never mixed up.

Everything here runs on one event loop; only `compute` runs elsewhere, in a few threads. Time
comes from a `Clock`, which an event loop is, so that tests turn it by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from xec.engines.priority import Priority
from xec.errors import UsageError
from xec_server.lanes import NOBODY, Lanes, Path
from xec_server.pace import Pace

Item = TypeVar("Item")
Answer = TypeVar("Answer")


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


class DeadlinePassedError(Exception):
    """The event's deadline passed before the engine could start on it."""


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
    """Events by fate: accepted = computed + failed + expired + abandoned + waiting."""

    accepted: int = 0
    refused: int = 0
    computed: int = 0
    failed: int = 0
    expired: int = 0
    abandoned: int = 0


@dataclass(slots=True, eq=False)
class _Job(Generic[Item, Answer]):
    item: Item
    future: asyncio.Future[Answered[Answer]]
    arrived: float
    deadline: float


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
        self._running: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._draining = False
        self._pace = Pace(policy.workers)
        self._threads = ThreadPoolExecutor(policy.workers, thread_name_prefix="xec-batch")

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
            items: they may be split over engine calls and share them with others.
            deadline: by the clock; None waits for ever.
            lane: where they wait.
            path: whose turns they use: a client's, and in these a call's.

        Raises:
            QueueFullError: they do not fit into the queue; none was accepted.
            DeadlinePassedError: the deadline came before the engine could start.
            DrainingError: the batcher is stopping.
            Exception: what `compute` raised.
        """
        if self._draining:
            raise DrainingError
        self._make_room(len(items), lane)
        jobs = [self._job(item, deadline) for item in items]
        self.counts.accepted += len(jobs)
        for job in jobs:
            self._queue.put(job, lane, path)
        self._dispatch()
        try:
            return await asyncio.gather(*(job.future for job in jobs))
        finally:
            for job in jobs:
                job.future.cancel()

    def _job(self, item: Item, deadline: float | None) -> _Job[Item, Answer]:
        future: asyncio.Future[Answered[Answer]] = asyncio.get_running_loop().create_future()
        last = float("inf") if deadline is None else deadline
        return _Job(item, future, self._clock.time(), last)

    def _make_room(self, count: int, lane: Priority) -> None:
        if self._queue.waiting(lane) + count <= self._policy.queue:
            return
        self._queue.keep(lambda job: not self._is_lost(job))
        if self._queue.waiting(lane) + count > self._policy.queue:
            self.counts.refused += count
            raise QueueFullError(self._pace.retry_after(len(self._queue)))

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
        batch: list[_Job[Item, Answer]] = []
        while self._queue and len(batch) < self._policy.size:
            job = self._queue.take()
            if not self._is_lost(job):
                batch.append(job)
        return batch

    def _start(self, batch: list[_Job[Item, Answer]]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._dispatch()

    async def _run(self, batch: list[_Job[Item, Answer]]) -> None:
        started = self._clock.time()
        answers = await self._answers([job.item for job in batch])
        seconds = self._clock.time() - started
        self._pace.learn(seconds / len(batch))
        for job, answer in zip(batch, answers, strict=True):
            self._settle(job, answer, started, seconds, len(batch))

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

    async def drain(self) -> None:
        """Take no more events and wait until all that were accepted are answered."""
        self._draining = True
        self._dispatch()
        while self._running:
            await asyncio.wait(self._running)

    def close(self) -> None:
        """Refuse what still waits and let the threads end."""
        self._draining = True
        for job in self._queue:
            if not job.future.done():
                self.counts.failed += 1
                job.future.set_exception(DrainingError())
        self._queue.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
