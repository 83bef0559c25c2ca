"""Running an iterator ahead of its consumer, in a thread."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Channel(Generic[T]):
    """What thread and consumer share: at most `ahead` items, and how it ended."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.items: deque[T] = deque()
        self.changed = threading.Condition()
        self.stopped = False  # by the consumer
        self.ended = False  # by the producer
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Whether the item is still wanted; waits for room."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or len(self.items) < self.ahead)
            if not self.stopped:
                self.items.append(item)
                self.changed.notify_all()
            return not self.stopped

    def end(self, error: BaseException | None) -> None:
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.items.clear()
            self.changed.notify_all()


def _fill(channel: _Channel[T], items: Iterator[T]) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not channel.put(item):
                break
    except BaseException as raised:  # the consumer raises it
        error = raised
    finally:
        # A generator holds files open until it is closed.
        close = getattr(items, "close", None)
        if close is not None:
            close()
        channel.end(error)


class Prefetcher(Generic[T]):
    """An iterator whose next items are made in a thread while the last one is in use.

    The thread ends with the iterator, its first error, `close`, or when nobody holds the
    prefetcher any more. It is a daemon: it does not keep a program alive.

    Args:
        items: used by the thread alone from now on.
        ahead: most items that wait, beside the one that is being made.
    """

    def __init__(self, items: Iterator[T], ahead: int) -> None:
        self._channel: _Channel[T] = _Channel(max(1, ahead))
        # The thread knows the channel and not this object, which can so be collected.
        self._thread = threading.Thread(
            target=_fill, args=(self._channel, items), name="xec-prefetch", daemon=True
        )
        self._finaliser = weakref.finalize(self, self._channel.stop)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item.

        Raises:
            StopIteration: at the end of the iterator, or after `close`.
            BaseException: what the iterator raised, after the items before it.
        """
        channel = self._channel
        with channel.changed:
            channel.changed.wait_for(lambda: channel.items or channel.ended or channel.stopped)
            if channel.items:
                item = channel.items.popleft()
                channel.changed.notify_all()
                return item
        if channel.error is not None:
            raise channel.error
        raise StopIteration

    def close(self) -> None:
        """End the thread and wait for it."""
        self._finaliser()
        self._thread.join()
