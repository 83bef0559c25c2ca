"""Names of events and of ranges of them."""

from __future__ import annotations

from typing import NamedTuple


class EventId(NamedTuple):
    """Run and event number; ordered by run, then event."""

    run: int
    event: int

    def __str__(self) -> str:
        return f"run {self.run} event {self.event}"

    def is_followed_by(self, other: EventId) -> bool:
        """Whether `other` is the next event of the same run."""
        return other.run == self.run and other.event == self.event + 1
