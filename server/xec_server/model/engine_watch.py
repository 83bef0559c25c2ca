"""Notices an engine that does not come back, and when it is time to give up on it.

A call that hangs cannot be ended from within the process. One worker of several that hangs costs
its share of the pace; when all hang, the server says so by health and refuses; and when none has
come back for as long again, only another process helps: the supervisor's, once this one has ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, Protocol

from xec.errors import ServiceError

_LOOKS: Final = 8  # in the time that a call may take
_LONGEST_LOOK: Final = 1.0

log = logging.getLogger(__name__)


class EngineLost(ServiceError):
    """Threads are still in the engine although the server has ended.

    Python and ONNX Runtime tidy up under them at the end of a process, and that may crash or hang:
    see `end_process`.
    """


def end_process(error: EngineLost) -> NoReturn:
    """Say why, and end here and now."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.write(f"xec: {error}\n")
    sys.stderr.flush()
    os._exit(error.exit_code)


class Watched(Protocol):
    """What hands events to the engine: `xec_server.queueing.batcher.Batcher`."""

    def check_engine(self, limit: float) -> bool:
        """Whether a call can come back, where one may take `limit` seconds."""
        ...


class EngineWatch:
    """Looks at the engine every now and then.

    Args:
        watched: its calls.
        limit: seconds that one may take.
        tell: called with whether the engine can answer, at each change.
    """

    def __init__(
        self, watched: Watched, limit: float, tell: Callable[[bool], Awaitable[None]]
    ) -> None:
        self.lost = asyncio.Event()
        """Set once no call has come back for twice the limit."""
        self._watched = watched
        self._limit = limit
        self._tell = tell
        self._hangs_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(self._limit / _LOOKS, _LONGEST_LOOK))
            await self._look(asyncio.get_running_loop().time())

    async def _look(self, now: float) -> None:
        if self._watched.check_engine(self._limit):
            if self._hangs_since is not None:
                log.warning("the engine has come back")
                self._hangs_since = None
                await self._tell(True)
        elif self._hangs_since is None:
            log.error("no engine call has come back within %g s: refusing events", self._limit)
            self._hangs_since = now
            await self._tell(False)
        elif now - self._hangs_since >= self._limit:
            self.lost.set()
