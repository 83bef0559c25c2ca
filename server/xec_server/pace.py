"""How long events take of late, and so when it makes sense to come again."""

from __future__ import annotations

from typing import Final

_SMOOTHING: Final = 0.1  # weight of the newest call in the mean time per event
_RETRY_SECONDS: Final = (0.05, 5.0)


class Pace:
    """The smoothed time per event of calls that run `at_once` side by side."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._seconds_per_event = 0.0

    def learn(self, seconds_per_event: float) -> None:
        """One more call has ended."""
        old = self._seconds_per_event or seconds_per_event
        self._seconds_per_event = old + _SMOOTHING * (seconds_per_event - old)

    def retry_after(self, waiting: int) -> float:
        """Seconds until about half of what waits now is done."""
        shortest, longest = _RETRY_SECONDS
        backlog = waiting * self._seconds_per_event / self._at_once
        return min(max(backlog / 2, shortest), longest)
