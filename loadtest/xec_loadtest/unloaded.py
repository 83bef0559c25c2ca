"""How fast a server answers when nobody else asks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Final

from xec.event import Event
from xec_client import Client

READY_SECONDS: Final = 5.0
_FIRST: Final = 5  # not counted: they open the connection
_CALLS: Final = 50


def median_latency(client: Client, events: Sequence[Event]) -> float:
    """Median of 50 single calls, one after the other, in seconds.

    Raises:
        ClientError: the server is not ready within 5 s, or refuses one of them.
    """
    client.wait_ready(READY_SECONDS)
    seconds = []
    for number in range(_FIRST + _CALLS):
        start = time.perf_counter()
        client.reconstruct(events[number % len(events)], ())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_FIRST:])
