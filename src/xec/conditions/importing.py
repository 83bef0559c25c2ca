"""What `xec conditions import` does: text files and the experiment's database into the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from xec.conditions.address import Address
from xec.conditions.dead_list import parse_dead_list
from xec.conditions.intervals import LAST_RUN, Runs, Tag
from xec.conditions.revisions import Change, Note
from xec.conditions.store import ConditionsStore
from xec.conditions.table_text import is_table, parse_table
from xec.conditions.text_file import read_text
from xec.conditions.upstream import Upstream, read_upstream
from xec.errors import UsageError

_ALL: Final = Runs(0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The runs that the command line names; None where it names none."""

    first: int | None
    last: int | None

    def runs(self, default_first: int | None) -> Runs:
        """Them as an interval.

        Raises:
            UsageError: the first run is missing, or the last one comes before it.
        """
        first = default_first if self.first is None else self.first
        if first is None:
            raise UsageError(
                "--first-run is missing: a list holds from a run on (a table of intervals begins "
                "with the line 'first_run last_run channels')."
            )
        last = LAST_RUN if self.last is None else self.last
        if last < first:
            raise UsageError(f"--last-run {last} comes before --first-run {first}.")
        return Runs(first, last)


def changes_of_file(path: Path, bounds: Bounds) -> list[Change]:
    """The intervals of a table, or one interval with the list of a file.

    Raises:
        ConditionsError: the file is neither.
        UsageError: the runs are missing for a list, or given for a table, which has its own.
    """
    text = read_text(path)
    if is_table(text):
        if bounds != Bounds(None, None):
            raise UsageError(
                f"{path} holds intervals of its own: leave out --first-run and --last-run."
            )
        return parse_table(text, str(path))
    return [Change(bounds.runs(None), parse_dead_list(text, str(path)))]


def changes_upstream(address: Address, bounds: Bounds) -> Upstream:
    """Read the experiment's database, with a bar of runs on a terminal."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("reading runs"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task("runs", total=None)
        return read_upstream(
            address,
            bounds.runs(_ALL.first),
            lambda done, total: progress.update(task, completed=done, total=total),
        )


def record(store: ConditionsStore, tag: Tag, changes: list[Change], note: Note, new: bool) -> str:
    """Record changes; what to tell the user."""
    number = store.record(tag, changes, note, only_new=new)
    if number is None:
        return f"Nothing to do: {store.address} says so already ({tag})."
    lists = {change.dead_list.list_id for change in changes if change.dead_list is not None}
    what = f"runs {changes[0].runs}" if len(changes) == 1 else f"{len(changes)} intervals"
    return f"Revision {number} ({tag}) in {store.address}: {what}, {_count(len(lists))}."


def _count(lists: int) -> str:
    return "1 list" if lists == 1 else f"{lists} lists"


def summary(found: Upstream, address: Address) -> list[str]:
    """What was found in the experiment's database, for the user."""
    lines = [f"{address}: {found.runs} runs with a list, {_count(found.lists)}."]
    if found.without_list:
        lines.append(
            f"{found.without_list} runs lead to no list there; they stay unknown, which is an "
            "error for whoever asks."
        )
    return lines
