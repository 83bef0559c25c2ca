"""Where events wait: who is let in, whose turn it is, and who has gone meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from xec.engines.priority import Priority
from xec_server.queueing.clock import Clock
from xec_server.queueing.lanes import Lanes, Path
from xec_server.queueing.outcomes import (
    Counts,
    DeadlinePassedError,
    DrainingError,
    HopelessError,
    QueueFullError,
)
from xec_server.queueing.pace import Pace, hint, margin
from xec_server.queueing.share import Shares

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(slots=True, eq=False)
class Entry(Generic[Item, Outcome]):
    """Items that wait together, and whoever waits for what becomes of them."""

    items: Sequence[Item]
    future: asyncio.Future[Outcome]
    arrived: float
    deadline: float

    @property
    def answer_by(self) -> float | None:
        """The deadline, where there is one."""
        return None if math.isinf(self.deadline) else self.deadline


class Room(Generic[Item, Outcome]):
    """The waiting room before an engine.

    Args:
        size: events that may wait in each lane.
        pace: of the engine.
        clock: of arrivals and deadlines.
    """

    def __init__(self, size: int, pace: Pace, clock: Clock) -> None:
        self.counts = Counts()
        self.closing = False
        self._size = size
        self._pace = pace
        self._clock = clock
        self._lanes: Lanes[Entry[Item, Outcome]] = Lanes(lambda entry: len(entry.items))
        self._shares = Shares(size)

    def __len__(self) -> int:
        """Events that wait."""
        return len(self._lanes)

    def __iter__(self) -> Iterator[Entry[Item, Outcome]]:
        """All entries, in no order that matters."""
        return iter(self._lanes)

    def waiting(self, lane: Priority) -> int:
        """Events that wait in one lane."""
        return self._lanes.waiting(lane)

    def oldest(self) -> float:
        """When the one arrived that has waited longest; there must be one."""
        return min(entry.arrived for entry in self._lanes.firsts())

    def check(
        self, count: int, deadline: float | None, lane: Priority, path: Path, under_way: int | None
    ) -> None:
        """Refuse `count` events that cannot be let in.

        Args:
            count: of them.
            deadline: by the clock; None: any time.
            lane: where they would wait.
            path: whose turns they would use.
            under_way: events in the engine that they would have to wait for; None: there is
                nothing to wait for, and they could start at once.

        Raises:
            DrainingError: nobody is let in any more.
            QueueFullError: they do not fit, or not into their client's share.
            HopelessError: their answers would be late.
        """
        if self.closing:
            raise DrainingError
        if not self._has_room(count, lane, path):
            self._lanes.keep(lambda entry: not self.is_lost(entry))
            if not self._has_room(count, lane, path):
                self.counts.refused += count
                raise QueueFullError(self._pace.retry_after(self._lanes.up_to(lane)))
        self._refuse_hopeless(count, deadline, lane, path, under_way)

    def _has_room(self, count: int, lane: Priority, path: Path) -> bool:
        waiting = self._lanes.waiting(lane)
        fits = waiting + count <= self._size
        return fits and self._shares.allows(count, waiting, lane, path)

    def _refuse_hopeless(
        self, count: int, deadline: float | None, lane: Priority, path: Path, under_way: int | None
    ) -> None:
        """Refuse what would be too late: it would take the place of others, for nothing.

        What can start at once is always tried, so that the pace is learned anew.
        """
        if deadline is None or (under_way is None and not self._lanes):
            return
        seconds = self._pace.time_for(self._lanes.place(count, lane, path) + (under_way or 0))
        remaining = deadline - self._clock.time()
        if seconds > remaining - margin(remaining):
            self.counts.refused += count
            self.counts.hopeless += count
            raise HopelessError(hint(seconds))

    @contextmanager
    def holding(
        self, pieces: Sequence[Sequence[Item]], deadline: float | None, lane: Priority, path: Path
    ) -> Iterator[list[Entry[Item, Outcome]]]:
        """Let items in, those of a piece to stay together, until nobody waits for them any more."""
        loop = asyncio.get_running_loop()
        last = math.inf if deadline is None else deadline
        now = self._clock.time()
        entries = [Entry(items, loop.create_future(), now, last) for items in pieces]
        count = sum(map(len, pieces))
        self.counts.accepted += count
        for entry in entries:
            self._lanes.put(entry, lane, path)
        try:
            with self._shares.taking(count, lane, path):
                yield entries
        finally:
            for entry in entries:
                entry.future.cancel()

    def take(self) -> Entry[Item, Outcome] | None:
        """The next one for whom somebody waits; None: there is none."""
        while self._lanes:
            entry = self._lanes.take()
            if not self.is_lost(entry):
                return entry
        return None

    def is_lost(self, entry: Entry[Item, Outcome]) -> bool:
        """Whether nobody waits for it any more; one past its deadline is told so."""
        if entry.future.done():
            self.counts.abandoned += len(entry.items)
            return True
        if entry.deadline <= self._clock.time():
            self.expire(entry)
            return True
        return False

    def expire(self, entry: Entry[Item, Outcome]) -> None:
        """Tell whoever waits for it that it is too late."""
        self.counts.expired += len(entry.items)
        entry.future.set_exception(DeadlinePassedError())

    def give_up(self, why: Exception) -> None:
        """Tell all who wait that nothing comes of it."""
        for entry in self._lanes:
            if entry.future.done():
                self.counts.abandoned += len(entry.items)
            else:
                self.counts.failed += len(entry.items)
                entry.future.set_exception(why)
        self._lanes.clear()
