"""Who goes first where an engine keeps two queues."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """Which queue a request waits in, where Triton has two; numbers are those of `config.pbtxt`."""

    ONLINE = 1
    """Single events, for which somebody waits."""
    OFFLINE = 2
    """Batches."""
