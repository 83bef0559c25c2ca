"""The progress bar of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def event_progress(quiet: bool) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A bar of events on the error stream, where that is a terminal.

    Args:
        quiet: show nothing.

    Yields:
        What to call with the number of all events; it gives what to call with how many more are
        done.
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )

    def start(total: int) -> Callable[[int], None]:
        task = progress.add_task("evaluating", total=total)
        return lambda count: progress.advance(task, count)

    with progress:
        yield start
