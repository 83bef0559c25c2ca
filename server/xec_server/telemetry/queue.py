"""A queue that lets others see what became of the events that it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from xec.engines.priority import Priority
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.events.work import EventQueue, Work
from xec_server.queueing.lanes import NOBODY, Path
from xec_server.queueing.outcomes import Answered, Counts

Answers = Sequence[Answered[pb.ReconstructResponse]]


class Watcher(Protocol):
    """Sees events that were submitted together."""

    def submitted(self) -> int:
        """Now, as `answered` and `failed` want to know it."""
        ...

    def answered(self, began: int, works: Sequence[Work], lane: Priority, answers: Answers) -> None:
        """All were answered."""
        ...

    def failed(self, began: int, works: Sequence[Work], error: BaseException) -> None:
        """They were not, or not all."""
        ...


class WatchedQueue:
    """Another queue, and somebody who watches it.

    Args:
        inner: does the work.
        watcher: sees what came of it; does not raise.
    """

    def __init__(self, inner: EventQueue, watcher: Watcher) -> None:
        self._inner = inner
        self._watcher = watcher
        self.waiting_in: Callable[[Priority], int] = inner.waiting_in
        self.check = inner.check
        self.drain = inner.drain
        self.close = inner.close

    @property
    def waiting(self) -> int:
        """Events that wait."""
        return self._inner.waiting

    @property
    def counts(self) -> Counts:
        """What became of all events."""
        return self._inner.counts

    async def submit(
        self,
        items: Sequence[Work],
        deadline: float | None = None,
        lane: Priority = Priority.ONLINE,
        path: Path = NOBODY,
    ) -> list[Answered[pb.ReconstructResponse]]:
        """Wait for the answers to `items`, as the inner queue does."""
        began = self._watcher.submitted()
        try:
            answers = await self._inner.submit(items, deadline, lane, path)
        except BaseException as error:
            self._watcher.failed(began, items, error)
            raise
        self._watcher.answered(began, items, lane, answers)
        return answers
