"""Latency against offered rate, from a tenth of what a server can do to beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from xec.errors import ServiceError, UsageError
from xec.event import Event
from xec_loadtest.arrivals import Arrivals, schedule
from xec_loadtest.connections import CONNECTIONS, asking
from xec_loadtest.knee import LIMIT, Knee, find_knee
from xec_loadtest.latency import Point, summary
from xec_loadtest.record import Observer, Record, ignore
from xec_loadtest.senders import Ask, closed_loop, open_loop


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. Rates are fractions of the capacity that the warm-up finds.

    Args:
        fractions: offered rates.
        seconds: at each of them.
        warm_up: seconds with one caller, with many, and with many at the end.
        callers: in the closed loop that finds the capacity.
        arrivals: how events come.
        limit: for a good answer, in medians of the unloaded server.
        timeout: seconds for one call.
        connections: to the server.
        seed: of the arrivals.

    Raises:
        UsageError: a value makes no sense.
    """

    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3)
    seconds: float = 8.0
    warm_up: float = 5.0
    callers: int = 32
    arrivals: Arrivals = Arrivals.POISSON
    limit: float = LIMIT
    timeout: float = 5.0
    connections: int = CONNECTIONS
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.fractions or min(self.fractions) <= 0:
            raise UsageError("The offered rates are positive fractions of the capacity.")
        if min(self.seconds, self.warm_up, self.timeout) <= 0 or self.limit <= 1:
            raise UsageError("Times are positive, and the limit is above the unloaded median.")
        if min(self.callers, self.connections) < 1:
            raise UsageError("Callers and connections are at least 1.")

    @property
    def total_seconds(self) -> float:
        """Of a whole sweep, without what drains after each rate."""
        return 3 * self.warm_up + len(self.fractions) * self.seconds


@dataclass(frozen=True, slots=True)
class Curve:
    """A server's answer to load.

    Args:
        name: of the server.
        unloaded: median latency with one caller, seconds.
        limit: seconds within which an answer is good.
        capacity: events/s in a closed loop of many callers.
        capacity_after: the same after all; a machine that does other work beside gives another.
        points: one for each offered rate, rising.
        knee: None where no rate is held.
    """

    name: str
    unloaded: float
    limit: float
    capacity: float
    capacity_after: float
    points: tuple[Point, ...]
    knee: Knee | None

    @property
    def drift(self) -> float:
        """By how much the capacity changed meanwhile, relative."""
        return abs(self.capacity_after / self.capacity - 1)


class Watch(Protocol):
    """Shows how far a sweep is."""

    def phase(self, what: str, seconds: float) -> Observer:
        """A part that takes so long begins; its observer is told of each call that has ended."""
        ...


class Unwatched:
    """A watch that nobody looks at."""

    def phase(self, what: str, seconds: float) -> Observer:
        """Nothing."""
        del what, seconds
        return ignore


async def sweep(name: str, server: str, events: Sequence[Event], plan: Plan, watch: Watch) -> Curve:
    """Measure one server.

    Args:
        name: for the report.
        server: its address, ``host:port``.
        events: sent over and over.
        plan: what is measured.
        watch: shows how far it is.

    Raises:
        ClientError: the server is not ready.
        ServiceError: it answers nothing in the warm-up.
    """
    async with asking(server, events, plan.timeout, plan.connections) as ask:
        unloaded = await _unloaded(ask, plan, watch)
        capacity = await _capacity(ask, plan, watch)
        limit = plan.limit * unloaded
        points = [
            summary(await _offer(ask, fraction * capacity, plan, watch), limit)
            for fraction in sorted(plan.fractions)
        ]
        after = await _capacity(ask, plan, watch)
    return Curve(name, unloaded, limit, capacity, after, tuple(points), find_knee(points))


async def _unloaded(ask: Ask, plan: Plan, watch: Watch) -> float:
    """Median latency of one caller."""
    observer = watch.phase("one caller", plan.warm_up)
    record = await closed_loop(ask, 1, plan.warm_up, observer)
    _require_answers(record)
    return float(np.median(record.latency))


async def _capacity(ask: Ask, plan: Plan, watch: Watch) -> float:
    """Events per second of many callers."""
    observer = watch.phase(f"{plan.callers} callers", plan.warm_up)
    record = await closed_loop(ask, plan.callers, plan.warm_up, observer)
    _require_answers(record)
    return float(record.answered.sum() / record.done.max())


def _require_answers(record: Record) -> None:
    if not record.answered.any():
        raise ServiceError(
            "The server answered no event of a closed loop: try xec reconstruct to see why."
        )


async def _offer(ask: Ask, rate: float, plan: Plan, watch: Watch) -> Record:
    intended = schedule(plan.arrivals, rate, plan.seconds, plan.seed)
    observer = watch.phase(f"{rate:.0f} events/s", plan.seconds)
    return await open_loop(ask, intended, plan.seconds, observer)
