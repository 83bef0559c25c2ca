"""Which of several servers is asked next: in turns, those that were away of late last.

gRPC can do the like (round_robin with health checks), but with its 1.76 that crashed the client's
process in each of three runs in which servers were restarted again and again (docs/log.md).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import grpc

from xec_client.status import Failure

_AVOIDED_SECONDS: Final = 1.0
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Choice:
    """The next server; may be shared by threads.

    Args:
        servers: how many there are.
        now: a clock that never goes back, in seconds.
    """

    def __init__(self, servers: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._next = 0
        self._avoided = [float("-inf")] * servers  # until when

    def next(self) -> int:
        """The number of the server whose turn it is."""
        count = len(self._avoided)
        if count == 1:
            return 0
        with self._lock:
            now = self._now()
            order = [(self._next + step) % count for step in range(count)]
            # A stable order: the first that is not avoided, or the one that will be so soonest.
            chosen = min(order, key=lambda one: max(self._avoided[one], now))
            self._next = (chosen + 1) % count
            return chosen

    def failed(self, server: int, failure: Failure) -> bool:
        """A call failed; whether another server may do it at once.

        Args:
            server: that was asked.
            failure: how.
        """
        if len(self._avoided) == 1 or failure.code not in _AWAY:
            return False
        with self._lock:
            now = self._now()
            self._avoided[server] = now + _AVOIDED_SECONDS
            return any(until <= now for until in self._avoided)
