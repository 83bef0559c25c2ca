"""Time as a queue needs it, so that tests turn it by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not call."""
        ...


class Clock(Protocol):
    """Time in seconds from any zero; `asyncio.AbstractEventLoop` is one."""

    def time(self) -> float:
        """Now."""
        ...

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once, at `when`."""
        ...
