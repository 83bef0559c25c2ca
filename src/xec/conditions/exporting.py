"""What `xec conditions export` does: the store's lists as text files that import reads."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xec.conditions.dead_list import list_lines
from xec.conditions.intervals import Tag, Timeline
from xec.conditions.revisions import AsOf
from xec.conditions.store import ConditionsStore
from xec.conditions.table_text import table_lines
from xec.conditions.text_file import write_text
from xec.errors import ConditionsError


def some_timeline(store: ConditionsStore, tag: Tag, as_of: AsOf) -> tuple[Timeline, int]:
    """The store's timeline of a tag, and its revision.

    Raises:
        ConditionsError: it is empty.
    """
    timeline, head = store.timeline(tag, as_of)
    if not timeline.segments:
        raise ConditionsError(f"{store.address} knows no {tag} list as of revision {head}.")
    return timeline, head


def export_list(store: ConditionsStore, run: int, tag: Tag, as_of: AsOf, out: Path) -> str:
    """Write the list of a run; what to tell the user."""
    known = store.lookup(run, tag, as_of)
    origin = f"# {tag}, run {run}, as of revision {known.head}"
    write_text(out, [origin, *list_lines(known.dead_list)])
    return f"{out}: list {known.dead_list.list_id} of run {run}, {len(known.dead_list)} dead."


def export_table(store: ConditionsStore, tag: Tag, as_of: AsOf, out: Path) -> str:
    """Write a table of all intervals in force; what to tell the user."""
    timeline, head = some_timeline(store, tag, as_of)
    comments = [f"{tag}, as of revision {head}"]
    write_text(out, table_lines(timeline, cache(store.dead_list), comments))
    return f"{out}: {len(timeline.segments)} intervals, {tag} as of revision {head}."
