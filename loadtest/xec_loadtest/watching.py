"""The progress bar of a sweep."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from xec_loadtest.record import Observer, Outcome

_REFRESHES: float = 2  # per second: drawing takes time of the process that has to send


class Bar:
    """A sweep on a progress bar, by the clock."""

    def __init__(self, progress: Progress, task: TaskID, name: str) -> None:
        self._progress = progress
        self._task = task
        self._name = name
        self._done = 0.0

    def phase(self, what: str, seconds: float) -> Observer:
        """See `xec_loadtest.sweep.Watch`."""
        before, start = self._done, time.perf_counter()
        self._done += seconds
        self._progress.update(self._task, description=f"{self._name}: {what}", completed=before)

        def observe(outcome: Outcome) -> None:
            del outcome
            elapsed = min(time.perf_counter() - start, seconds)
            self._progress.update(self._task, completed=before + elapsed)

        return observe


@contextmanager
def bar(console: Console, name: str, seconds: float) -> Iterator[Bar]:
    """A bar of so many seconds, where the console is a terminal."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=_REFRESHES,
        disable=not console.is_terminal,
    )
    with progress:
        yield Bar(progress, progress.add_task(name, total=seconds), name)
