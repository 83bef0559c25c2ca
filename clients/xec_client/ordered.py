"""Work on several items at a time, results in order, memory bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def ordered_map(
    function: Callable[[Item], Answer], items: Iterable[Item], in_flight: int
) -> Iterator[tuple[Item, Answer]]:
    """Each item with `function` of it, in the order of the items.

    At most `in_flight` items are taken ahead of the one whose answer is awaited. The first failure,
    of an item or of `items` itself, ends the iteration; what has not begun then never begins, and
    what runs is left to itself, so that its owner can cut it short.

    Args:
        function: called in threads.
        items: taken in the caller's thread, one at a time.
        in_flight: calls at the same time, at least 1.
    """
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="xec-reconstruct")
    waiting: deque[tuple[Item, Future[Answer]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= in_flight:
                first, answer = waiting.popleft()
                yield first, answer.result()
        while waiting:
            first, answer = waiting.popleft()
            yield first, answer.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
