"""Which events a sink has already, so that what is delivered twice comes out once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from xec_client.daq.spool.ids import EventId


class SeenIds:
    """A set of event ids that takes memory per stretch of consecutive numbers, not per event.

    Args:
        ids: to begin with, such as those in the output of an earlier process.
    """

    def __init__(self, ids: Iterable[EventId] = ()) -> None:
        # By run: first numbers of the stretches and, beside them, the numbers after their last.
        self._starts: dict[int, list[int]] = {}
        self._ends: dict[int, list[int]] = {}
        self._count = 0
        for event_id in ids:
            self.add(event_id)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, event_id: EventId) -> bool:
        starts = self._starts.get(event_id.run, [])
        row = bisect_right(starts, event_id.event) - 1
        return row >= 0 and event_id.event < self._ends[event_id.run][row]

    def __iter__(self) -> Iterator[EventId]:
        for run in sorted(self._starts):
            for start, end in zip(self._starts[run], self._ends[run], strict=True):
                yield from (EventId(run, event) for event in range(start, end))

    @property
    def stretches(self) -> int:
        """How many there are: what the set costs."""
        return sum(len(starts) for starts in self._starts.values())

    def add(self, event_id: EventId) -> bool:
        """Add an event; False: it was there already."""
        if event_id in self:
            return False
        run, event = event_id
        starts, ends = self._starts.setdefault(run, []), self._ends.setdefault(run, [])
        row = bisect_right(starts, event)
        joins_before = row > 0 and ends[row - 1] == event
        joins_after = row < len(starts) and starts[row] == event + 1
        if joins_before and joins_after:
            ends[row - 1] = ends.pop(row)
            del starts[row]
        elif joins_before:
            ends[row - 1] = event + 1
        elif joins_after:
            starts[row] = event
        else:
            starts.insert(row, event)
            ends.insert(row, event + 1)
        self._count += 1
        return True
