"""Dead-channel lists for people: tables of intervals, history, one run, and differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag, Timeline
from xec.conditions.revisions import Known, Revision
from xec.conditions.table_text import ranges_of
from xec.detector.channels import N_CHANNELS, Face, face_of_channel

TIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S UTC"


def _table(title: str, *headings: str) -> Table:
    # Text, not markup: what users wrote is shown as it is.
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(Text(str(cell)) for cell in cells))


def _faces(dead: DeadList) -> str:
    counts = Counter(face_of_channel()[list(dead.channels)].tolist())
    return ", ".join(f"{face.value} {counts[face.value]}" for face in Face if counts[face.value])


def _channels(dead: DeadList) -> str:
    return ranges_of(dead.channels).replace(",", ", ") if dead.channels else "none"


def known_list(known: Known, revision: Revision) -> RenderableType:
    """What is known of one run, with its channels."""
    table = _table(f"Run {known.run}, {known.tag}", "", "")
    table.show_header = False
    dead = known.dead_list
    _row(table, "list", dead.list_id)
    _row(table, "dead", f"{len(dead)} of {N_CHANNELS}" + (f": {_faces(dead)}" if dead else ""))
    _row(table, "interval", f"runs {known.runs}")
    _row(table, "revision", f"{known.revision}, as of revision {known.head}")
    _row(table, "recorded", f"{revision.recorded_at:{TIME_FORMAT}} by {revision.note.author}")
    _row(table, "why", revision.note.reason)
    if revision.note.source:
        _row(table, "source", revision.note.source)
    return Group(table, Text(f"channels: {_channels(dead)}"))


def intervals(
    timeline: Timeline, tag: Tag, head: int, list_of: Callable[[str], DeadList]
) -> RenderableType:
    """One row per interval that is in force."""
    table = _table(f"{tag} as of revision {head}", "runs", "dead", "list", "revision")
    for segment in timeline.segments:
        dead = list_of(segment.list_id)
        _row(table, segment.runs, len(dead), dead.list_id, segment.revision)
    return table


def _said(runs: Runs, list_id: str | None) -> str:
    return f"runs {runs}: {'withdrawn' if list_id is None else list_id}"


def history(revisions: Sequence[Revision]) -> RenderableType:
    """One row per revision, the last one first."""
    headings = ("revision", "recorded", "tag", "by", "why", "what")
    table = _table("History", *headings)
    for revision in reversed(revisions):
        lines = [_said(validity.runs, validity.list_id) for validity in revision.validities[:3]]
        more = len(revision.validities) - len(lines)
        lines += [f"and {more} more"] if more else []
        note = revision.note
        why = f"{note.reason} ({note.source})" if note.source else note.reason
        recorded = f"{revision.recorded_at:{TIME_FORMAT}}"
        _row(table, revision.number, recorded, revision.tag, note.author, why, "\n".join(lines))
    return table


def difference(one: tuple[str, DeadList], other: tuple[str, DeadList]) -> RenderableType:
    """What is dead in one list only, by name of the list."""
    (name_one, dead_one), (name_other, dead_other) = one, other
    only_one = DeadList.of(set(dead_one.channels) - set(dead_other.channels))
    only_other = DeadList.of(set(dead_other.channels) - set(dead_one.channels))
    if not only_one and not only_other:
        return Text(f"{name_one} and {name_other} are the same list, {dead_one.list_id}.")
    table = _table(f"{name_one} and {name_other}", "dead in", "sensors", "channels")
    both = len(dead_one) - len(only_one)
    _row(table, f"{name_one} only", len(only_one), _channels(only_one))
    _row(table, f"{name_other} only", len(only_other), _channels(only_other))
    _row(table, "both", both, "")
    return table


def show(what: RenderableType) -> None:
    """Print to the standard output; a pipe gets whole lines of any length."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(what)


def say(lines: Iterable[str]) -> None:
    """Print plain lines to the standard output."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in lines:
        console.print(line)
