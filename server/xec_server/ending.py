"""When a server is told to stop, by whom, and how much time it has left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final

from xec_server.calls.refusal import Reason, Refusal

log = logging.getLogger(__name__)
_EXIT_BY_SIGNAL: Final = 128


class Ending:
    """The wish that a server stops.

    The first wish starts an orderly end. A second signal means now: what is not computed by then
    is refused.

    Args:
        grace: seconds for what was accepted.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.told = asyncio.Event()
        self.exit_status = 0
        self._now = asyncio.Event()
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def signalled(self, number: int) -> None:
        """A signal came that asks a process to end."""
        if self.told.is_set() and not self._now.is_set():
            log.warning("told to stop a second time: calls under way are cut off")
            self.exit_status = _EXIT_BY_SIGNAL + number
            self._now.set()
        self.told.set()

    def asked(self, grace: float | None) -> None:
        """An operator asked for it, with so many seconds of grace, or those of the settings.

        Raises:
            Refusal: the server is stopping already.
        """
        if self.told.is_set():
            raise Refusal(Reason.DRAINING, "The server is stopping already.")
        if grace is not None:
            self.grace = grace
        self.told.set()

    def is_over(self, cut_off: int) -> None:
        """Nothing is under way any more; so many events had no answer in time."""
        if not self._over.done():
            self._over.set_result(cut_off)

    async def over(self) -> int:
        """Wait for that."""
        return await asyncio.shield(self._over)

    async def pause(self, seconds: float) -> None:
        """Let time pass, unless there is none."""
        await _within(self._now.wait(), seconds)

    async def finished(self, work: Awaitable[object]) -> bool:
        """Wait for what was accepted, as long as there is time; whether it came to its end."""
        finishing = asyncio.ensure_future(work)
        now = asyncio.ensure_future(self._now.wait())
        await asyncio.wait(
            {finishing, now}, timeout=self.grace, return_when=asyncio.FIRST_COMPLETED
        )
        in_time = finishing.done()
        for task in (finishing, now):
            task.cancel()
        await asyncio.gather(finishing, now, return_exceptions=True)
        return in_time


async def _within(work: Awaitable[object], seconds: float) -> None:
    try:
        await asyncio.wait_for(work, seconds)
    except TimeoutError:
        return
