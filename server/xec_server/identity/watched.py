"""Files that are read again when they change, and kept as they were when the new ones are no good.

The cost is bounded whatever the callers do: files are looked at once a second at most, and read
only when they have changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from xec.errors import XecError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0

Value = TypeVar("Value")
_Look: TypeAlias = "tuple[tuple[int, ...] | None, ...]"


def _look(paths: Sequence[Path]) -> _Look:
    """What is different once a file has been replaced or written to."""
    return tuple(_look_at(path) for path in paths)


def _look_at(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Watched(Generic[Value]):
    """What some files say; may be asked by several threads.

    Args:
        paths: the files.
        read: makes sense of them.
        what: they are, for the log.
        now: a clock that never goes back, in seconds.

    Raises:
        XecError: as `read`, the first time; later that is logged, and the old value is kept.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], Value],
        what: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths, self._read, self._what, self._now = paths, read, what, now
        self._lock = threading.Lock()
        self._seen = _look(paths)
        self._value = read()
        self._next = now() + LOOK_SECONDS

    def get(self) -> Value:
        """The value of at most a second ago."""
        with self._lock:
            if self._now() >= self._next:
                self._next = self._now() + LOOK_SECONDS
                self._look_again()
            return self._value

    def _look_again(self) -> None:
        seen = _look(self._paths)
        if seen == self._seen:
            return
        try:
            value = self._read()
        except XecError as error:
            self._seen = seen
            log.error("%s: the old ones are kept, the new ones are no good: %s", self._what, error)
            return
        # What was written meanwhile is seen the next time: `seen` is from before.
        self._seen, self._value = seen, value
        log.info("%s were read anew", self._what)
