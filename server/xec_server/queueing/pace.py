"""How long events take of late, and so how long those that wait will; when to come again."""

from __future__ import annotations

from typing import Final

_SMOOTHING: Final = 0.1  # weight of the newest call in the mean time per event
_LONGEST_MARGIN: Final = 0.25  # seconds
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

    def time_for(self, events: int) -> float:
        """Seconds that so many events take all calls together; 0 before any has ended."""
        return events * self._seconds_per_event / self._at_once

    def one_call(self, events: int) -> float:
        """Seconds that one call for so many events takes."""
        return events * self._seconds_per_event

    def retry_after(self, waiting: int) -> float:
        """Seconds until about half of what waits now is done."""
        return hint(self.time_for(waiting) / 2)


def margin(seconds: float) -> float:
    """What is kept of a call's time for what comes after the engine, and for saying why not."""
    return min(0.1 * seconds, _LONGEST_MARGIN)


def hint(seconds: float) -> float:
    """A time to come again that neither has all return at once nor keeps them away for long."""
    shortest, longest = _RETRY_SECONDS
    return min(max(seconds, shortest), longest)
