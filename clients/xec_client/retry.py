"""When a failed call is tried again, and after how long: the only layer that retries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from xec.errors import UsageError
from xec_client.status import CLOSED_HERE, Failure


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a call is tried again.

    Only what the server certainly did not answer, and may answer next time, is repeated:
    UNAVAILABLE, CANCELLED where a stopping server cut off what it had not looked at yet, and
    RESOURCE_EXHAUSTED where the server says when to come back. The waiting grows
    by `multiplier` from `first_wait` to `longest_wait` seconds and is spread by `jitter`, so that
    clients that failed together do not return together (backoff of gRPC's proposal A6).

    Args:
        attempts: calls in all, the first included.
        first_wait: seconds before the second attempt.
        multiplier: from one wait to the next.
        longest_wait: seconds; no wait that the server did not ask for is longer, jitter aside.
        jitter: a wait is multiplied by a number between 1 - jitter and 1 + jitter.
        shortest_attempt: seconds; no attempt starts with less time than this to its deadline.

    Raises:
        UsageError: a value makes no sense.
    """

    attempts: int = 4
    first_wait: float = 0.1
    multiplier: float = 2.0
    longest_wait: float = 2.0
    jitter: float = 0.2
    shortest_attempt: float = 0.02

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError("A retry policy has at least one attempt.")
        if min(self.first_wait, self.longest_wait, self.shortest_attempt) < 0:
            raise UsageError("The times of a retry policy are not negative.")
        if self.multiplier < 1 or not 0 <= self.jitter <= 1:
            raise UsageError("A retry policy has a multiplier from 1 on and a jitter from 0 to 1.")

    def backoff(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1).

        Args:
            attempt: the number of the attempt that failed.
            random: gives numbers in [0, 1).
        """
        wait = min(self.first_wait * self.multiplier ** (attempt - 1), self.longest_wait)
        return wait * (1 + self.jitter * (2 * random() - 1))

    def wait_before_next(
        self, failure: Failure, attempt: int, remaining: float, random: Callable[[], float]
    ) -> float | None:
        """Seconds to wait before the next attempt, or None where there is to be none.

        Args:
            failure: how the last attempt failed.
            attempt: its number, from 1.
            remaining: seconds to the deadline of the whole call.
            random: gives numbers in [0, 1).
        """
        if attempt >= self.attempts or not _may_succeed(failure):
            return None
        # The server's wish comes first, the spread on top: never earlier than it asked for.
        wait = (failure.retry_after or 0.0) + self.backoff(attempt, random)
        return wait if wait + self.shortest_attempt <= remaining else None


def _may_succeed(failure: Failure) -> bool:
    if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Without RetryInfo it is a message above the limit, which stays above it.
        return failure.retry_after is not None
    if failure.code is grpc.StatusCode.CANCELLED:
        return failure.details != CLOSED_HERE
    return failure.code is grpc.StatusCode.UNAVAILABLE


DEFAULT_RETRY: Final = RetryPolicy()
NO_RETRY: Final = RetryPolicy(attempts=1)
