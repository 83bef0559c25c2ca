"""Threads that a process does not wait for when it ends.

An engine call that hangs cannot be ended from within the process; Python's own pool would have the
process wait for it for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Work: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"


class DaemonThreads(Executor):
    """An executor of `count` threads which do not keep the process alive.

    Args:
        count: calls at a time; each thread is there from the start.
        name: what the threads are called, with their number.
    """

    def __init__(self, count: int, name: str) -> None:
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._count = count
        self._calls: set[Future[Any]] = set()
        for number in range(count):
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True).start()

    @property
    def busy(self) -> int:
        """Calls that run now."""
        return len(self._calls)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn` called in a thread."""
        future: Future[T] = Future()
        self._work.put((future, lambda: fn(*args, **kwargs)))
        return future

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, call = work
            del work
            if future.set_running_or_notify_cancel():
                self._calls.add(future)
                try:
                    result = call()
                except BaseException as error:  # whoever waits for the answer gets it
                    self._calls.discard(future)
                    future.set_exception(error)
                else:
                    self._calls.discard(future)
                    future.set_result(result)
                    del result
            del future, call  # nothing of a request is kept until the next one

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each thread end after its call; nobody waits for them."""
        del wait, cancel_futures
        for _ in range(self._count):
            self._work.put(None)
