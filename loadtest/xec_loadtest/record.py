"""What became of every event that was to be sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from xec_client.errors import ClientError, DeadlineExceeded, Overloaded
from xec_loadtest.arrivals import Times


class Outcome(IntEnum):
    """How a call ended."""

    ANSWERED = 0
    REFUSED = 1  # the server had no room
    LATE = 2  # no answer within the deadline of the call
    FAILED = 3  # anything else


Observer = Callable[[Outcome], None]
"""Is told of each call that has ended."""


def ignore(outcome: Outcome) -> None:
    """An observer that does not look."""
    del outcome


def outcome_of(error: ClientError | None) -> Outcome:
    """How a call ended that raised this, or nothing."""
    if error is None:
        return Outcome.ANSWERED
    if isinstance(error, Overloaded):
        return Outcome.REFUSED
    return Outcome.LATE if isinstance(error, DeadlineExceeded) else Outcome.FAILED


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """All calls of one run, in the order of their intended times.

    Args:
        seconds: length of the schedule.
        intended: when each was to be sent, (events,) in seconds from the start.
        sent: when it was.
        done: when its end was known.
        outcome: `Outcome` of each.
    """

    seconds: float
    intended: Times
    sent: Times
    done: Times
    outcome: NDArray[np.int8]

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which events were answered."""
        found: NDArray[np.bool_] = self.outcome == Outcome.ANSWERED
        return found

    @property
    def latency(self) -> Times:
        """Seconds from the intended time to the answer, of the answered ones."""
        return (self.done - self.intended)[self.answered]

    @property
    def lag(self) -> Times:
        """Seconds by which the generator itself was late."""
        return self.sent - self.intended


@dataclass(slots=True, eq=False)
class Notebook:
    """Takes down calls as they end, and becomes a `Record`."""

    intended: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    outcome: list[Outcome] = field(default_factory=list)

    def note(self, intended: float, sent: float, done: float, outcome: Outcome) -> None:
        """One call has ended."""
        self.intended.append(intended)
        self.sent.append(sent)
        self.done.append(done)
        self.outcome.append(outcome)

    def record(self, seconds: float) -> Record:
        """All of them."""
        order = np.argsort(self.intended, kind="stable")
        return Record(
            seconds,
            np.array(self.intended)[order],
            np.array(self.sent)[order],
            np.array(self.done)[order],
            np.array(self.outcome, dtype=np.int8)[order],
        )
