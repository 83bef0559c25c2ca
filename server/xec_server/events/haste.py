"""A gate that refuses a call before it is received, where not even one event would be in time.

What refusals cost is what answers lack: at four times the capacity the goodput is 0.92 of it so,
and was 0.53 where calls were received first (`benchmarks/overload.py`, docs/log.md).
"""

from __future__ import annotations

import asyncio
from typing import Final

from xec.engines.priority import Priority
from xec_server.calls.call import Call
from xec_server.events.work import EventQueue

_METHODS: Final = frozenset(
    {"/xec.v1.Reconstruction/Reconstruct", "/xec.v1.Reconstruction/ReconstructBatch"}
)


class Haste:
    """Asks for one event of the caller in the lane that goes first; the call may need more.

    Args:
        queue: where its events would wait.
    """

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue

    def __call__(self, call: Call) -> None:
        """Let a call pass that may be in time.

        Raises:
            QueueFullError: there is no room for one event.
            HopelessError: its answer would be late.
            DrainingError: the server is stopping.
            EngineHangsError: the engine does not come back.
        """
        if call.method in _METHODS:
            remaining = call.context.time_remaining()
            now = asyncio.get_running_loop().time()
            deadline = None if remaining is None else now + remaining
            self._queue.check(1, deadline, Priority.ONLINE, (call.caller, ""))
