"""The progress bar of a run over a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def event_progress(total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar of events on the error stream, where that is a terminal.

    Args:
        total: events in all; None where the file does not tell.
        quiet: show nothing.

    Yields:
        What to call with the number of events that are done.
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("reconstructing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with progress:
        task = progress.add_task("reconstructing", total=total)
        yield lambda count: progress.advance(task, count)
