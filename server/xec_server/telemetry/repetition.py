"""Lines that repeat each other: the first few of each kind are written, the rest is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_MOST_KINDS: Final = 512


@dataclass(slots=True)
class _Kind:
    until: float
    written: int = 0
    suppressed: int = 0


class Repetition:
    """Says which lines are too many; safe in all threads.

    Args:
        lines: of one kind that are written in each period.
        period: in seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self, lines: int = 10, period: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lines = lines
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[str, _Kind] = {}

    def allows(self, kind: str) -> bool:
        """Whether one more line of this kind is to be written."""
        now = self._clock()
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
                kind = "others"  # kinds are few; should they ever not be, the rest shares one
            known = self._kinds.get(kind)
            if known is None or (known.until <= now and not known.suppressed):
                known = self._kinds[kind] = _Kind(now + self._period)
            if known.written < self._lines:
                known.written += 1
                return True
            known.suppressed += 1
            return False

    def overdue(self, *, all_of_them: bool = False) -> Iterator[tuple[str, int]]:
        """Kinds whose period is over, and how many of their lines were left out in it.

        Args:
            all_of_them: also those whose period is not over yet.
        """
        now = self._clock()
        with self._lock:
            ended = [(k, v) for k, v in self._kinds.items() if all_of_them or v.until <= now]
            for kind, _ in ended:
                del self._kinds[kind]
        yield from ((kind, known.suppressed) for kind, known in ended if known.suppressed)
