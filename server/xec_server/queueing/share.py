"""How much of the queue one client may take: turns decide who is served, this who is let in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from xec.engines.priority import Priority
from xec_server.queueing.lanes import Path


class Shares:
    """The events of each client in each lane, from their acceptance to their answer.

    A client that has some gets more only as long as what it then has is no more than what is then
    left free: alone it takes half of the queue, n clients that want all there is take 1/(n+1) each,
    and whoever comes next finds as much. A client that has none takes what there is. Such a dynamic
    threshold needs no knowledge of who will come (Choudhury and Hahne, 1998).

    Args:
        queue: events that a lane takes.
    """

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self._taken: Counter[tuple[Priority, str]] = Counter()

    def allows(self, count: int, waiting: int, lane: Priority, path: Path) -> bool:
        """Whether the client may have `count` more in a lane where `waiting` wait.

        Who is not told apart from others has no share.
        """
        client = path[0]
        mine = self._taken[lane, client] if client else 0
        return not mine or mine + count <= self._queue - waiting - count

    @contextmanager
    def taking(self, count: int, lane: Priority, path: Path) -> Iterator[None]:
        """While so many events of the client are accepted and not answered."""
        key = lane, path[0]
        self._taken[key] += count
        try:
            yield
        finally:
            self._taken[key] -= count
            if not self._taken[key]:
                del self._taken[key]
