"""What can become of an event that is handed to a queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


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
