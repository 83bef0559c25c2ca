"""A time limit that many tasks keep to, with one timer for all of them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from xec_server.calls.refusal import Reason, Refusal


class TimeLimit:
    """Ends what takes longer.

    Whoever comes first is due first, so that one timer serves all; `asyncio.timeout` would set one
    for each and cancel it.

    Args:
        seconds: that each may take.
        reason: of the refusal of what takes longer.
        message: of that refusal.
    """

    def __init__(self, seconds: float, reason: Reason, message: str) -> None:
        self._seconds, self._reason, self._message = seconds, reason, message
        self._stays: dict[_Stay, None] = {}  # in the order in which they are due
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> _Stay:
        """A context that raises a Refusal where the current task stays in it for too long."""
        return _Stay(self)

    def enter(self, stay: _Stay) -> float:
        """Begin to watch, and say when that ends."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._seconds
        self._stays[stay] = None
        if self._timer is None:
            self._timer = loop.call_at(due, self._look)
        return due

    def leave(self, stay: _Stay) -> None:
        """Watch no longer."""
        self._stays.pop(stay, None)

    def refusal(self) -> Refusal:
        """What is told to who took longer."""
        return Refusal(self._reason, self._message)

    def _look(self) -> None:
        """End those that are due, and come back for the next one."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._stays:
            stay = next(iter(self._stays))
            if stay.due > loop.time():
                self._timer = loop.call_at(stay.due, self._look)
                return
            del self._stays[stay]
            stay.end()


class _Stay:
    """One task under a limit; what it raises and who else cancels it are kept apart from that."""

    __slots__ = ("_cancelled_before", "_is_over", "_limit", "_task", "due")

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit
        self._is_over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("Only tasks have a time limit.")
        self._task = task
        self._cancelled_before = task.cancelling()
        self.due = self._limit.enter(self)
        return self

    def end(self) -> None:
        """It took too long."""
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._limit.leave(self)
        if not self._is_over:
            return
        by_others = self._task.uncancel() > self._cancelled_before
        if isinstance(error, asyncio.CancelledError) and not by_others:
            raise self._limit.refusal() from None
