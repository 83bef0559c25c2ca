"""When the server may be asked again: back-off and circuit breaker in one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long a server that failed is left alone.

    The first failures are followed by short waits, as a server that restarts or is full for a
    moment deserves. From `threshold` failures in a row on the breaker is open: one event at a time
    is sent, to see whether the server is back, until one is answered.

    Args:
        first_wait: seconds after the first failure.
        multiplier: from one wait to the next.
        longest_wait: seconds.
        jitter: a wait is multiplied by a number between 1 - jitter and 1 + jitter.
        threshold: failures in a row that open the breaker.
    """

    first_wait: float = 0.1
    multiplier: float = 2.0
    longest_wait: float = 5.0
    jitter: float = 0.2
    threshold: int = 3


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row and says when to try again.

    Args:
        policy: how long to wait.
        random: gives numbers in [0, 1).
    """

    policy: BackOff = field(default_factory=BackOff)
    random: Callable[[], float] = random.random
    failures: int = 0
    reason: str = ""
    since: float = 0.0
    _next: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether only single events are sent, to see whether the server is back."""
        return self.failures >= self.policy.threshold

    def wait(self, now: float) -> float:
        """Seconds until the server may be asked; 0 when it may be now."""
        return max(self._next - now, 0.0)

    def failed(self, reason: str, now: float, retry_after: float | None = None) -> None:
        """Note a failure.

        Args:
            reason: for people.
            now: seconds of a clock that never goes back.
            retry_after: seconds that the server asks to wait at least.
        """
        if not self.failures:
            self.since = now
        policy = self.policy
        grown = policy.first_wait * policy.multiplier ** min(self.failures, 60)
        spread = 1 + policy.jitter * (2 * self.random() - 1)
        self.failures += 1
        self.reason = reason
        self._next = now + (retry_after or 0.0) + min(grown, policy.longest_wait) * spread

    def succeeded(self) -> None:
        """Note an answer."""
        self.failures = 0
        self.reason = ""
        self._next = 0.0
