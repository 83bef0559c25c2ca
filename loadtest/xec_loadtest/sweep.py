"""Latency against offered rate, from a tenth of what a server can do to beyond it."""

from __future__ import annotations

import time
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
        warm_up: seconds with one caller, and again with many.
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
    seconds: float = 10.0
    warm_up: float = 6.0
    callers: int = 32
    arrivals: Arrivals = Arrivals.POISSON
    limit: float = LIMIT
    timeout: float = 10.0
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
        return 2 * self.warm_up + len(self.fractions) * self.seconds


@dataclass(frozen=True, slots=True)
class Curve:
    """A server's answer to load.

    Args:
        name: of the server.
        unloaded: median latency with one caller, seconds.
        limit: seconds within which an answer is good.
        capacity: events/s in a closed loop of many callers.
        points: one for each offered rate, rising.
        knee: None where no rate is held.
    """

    name: str
    unloaded: float
    limit: float
    capacity: float
    points: tuple[Point, ...]
    knee: Knee | None


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
        unloaded, capacity = await _warm_up(ask, plan, watch)
        limit = plan.limit * unloaded
        points = [
            summary(await _offer(ask, fraction * capacity, plan, watch), limit)
            for fraction in sorted(plan.fractions)
        ]
    return Curve(name, unloaded, limit, capacity, tuple(points), find_knee(points))


async def _warm_up(ask: Ask, plan: Plan, watch: Watch) -> tuple[float, float]:
    """Median latency of one caller, and the events per second of many."""
    alone = await closed_loop(ask, 1, plan.warm_up, watch.phase("one caller", plan.warm_up))
    observer = watch.phase(f"{plan.callers} callers", plan.warm_up)
    start = time.perf_counter()
    many = await closed_loop(ask, plan.callers, plan.warm_up, observer)
    elapsed = time.perf_counter() - start
    if not (alone.answered.any() and many.answered.any()):
        raise ServiceError(
            "The server answered no event of the warm-up: try xec reconstruct to see why."
        )
    return float(np.median(alone.latency)), float(many.answered.sum() / elapsed)


async def _offer(ask: Ask, rate: float, plan: Plan, watch: Watch) -> Record:
    intended = schedule(plan.arrivals, rate, plan.seconds, plan.seed)
    observer = watch.phase(f"{rate:.0f} events/s", plan.seconds)
    return await open_loop(ask, intended, plan.seconds, observer)
