"""The state of every run as a table, and the check of what was published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from xec.errors import FileError, UsageError
from xec.io.result_digest import content_of
from xec_client.reprocess.folder import is_in_use, lineages, read_lineage
from xec_client.reprocess.manifest import Contents, read_manifest
from xec_client.reprocess.sink import Part
from xec_client.reprocess.states import RunState, RunStatus

_STYLE: Final = {
    RunState.CONSIDERING: "cyan",
    RunState.BUSY: "cyan",
    RunState.DONE: "green",
    RunState.FAILED: "yellow",
    RunState.ABANDONED: "red",
}


@dataclass(frozen=True, slots=True)
class Lineage:
    """One lineage of an output folder.

    Args:
        folder: where its parts are.
        recipe: what decides its results.
        contents: of its manifest.
        in_use: whether a process works on it.
    """

    folder: Path
    recipe: dict[str, Any]
    contents: Contents
    in_use: bool = False

    def said_of(self, status: RunStatus) -> str:
        """The state in a word; what was under way when its process ended is interrupted."""
        under_way = status.state in {RunState.CONSIDERING, RunState.BUSY}
        return "interrupted" if under_way and not self.in_use else status.state.value

    def current(self) -> list[RunStatus]:
        """The runs by their paths, without superseded inputs.

        Where an input changed, its new state counts; what was made of the old one stays.
        """
        latest = {status.path: status for status in self.contents.runs.values()}
        return [latest[path] for path in sorted(latest)]

    def superseded(self) -> int:
        """How many inputs changed since they were reprocessed."""
        return len(self.contents.runs) - len(self.current())

    def parts(self) -> list[Part]:
        """The parts of all runs that are done, in order."""
        return [
            part
            for status in self.current()
            if status.state is RunState.DONE
            for part in sorted(
                self.contents.parts_of(status.identity).values(), key=lambda part: part.first
            )
        ]


def read_lineages(out: Path, key: str | None) -> list[Lineage]:
    """The lineages of an output folder, oldest first.

    Args:
        out: the folder.
        key: of one of them, or None for all.

    Raises:
        UsageError: it is not our folder, or has no such lineage.
    """
    folders = [folder for folder in lineages(out) if key in (None, folder.name)]
    if key is not None and not folders:
        known = ", ".join(folder.name for folder in lineages(out)) or "none"
        raise UsageError(f"{out} has no lineage {key}; it has {known}.")
    in_use = is_in_use(out)
    return [
        Lineage(folder, read_lineage(folder), read_manifest(folder), in_use) for folder in folders
    ]


def status_table(lineage: Lineage) -> Table:
    """A row for each run."""
    recipe = lineage.recipe
    dead = recipe["dead_list_id"] or "as each file tells"
    title = (
        f"Lineage {lineage.folder.name}: model {recipe['model_sha256'][:12]}, dead list {dead}, "
        f"{recipe['suffix'][1:]}, version {recipe['software_version']}"
    )
    superseded = lineage.superseded()
    caption = f"and {superseded} inputs that changed since" if superseded else None
    table = Table(title=Text(title), caption=caption, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("run", "state"):
        table.add_column(name, overflow="fold")
    for name in ("events", "parts", "failures"):
        table.add_column(name, justify="right")
    table.add_column("reason or notes", overflow="fold")
    for status in lineage.current():
        contents = lineage.contents
        table.add_row(
            Text(status.path),
            Text(lineage.said_of(status), style=_STYLE[status.state]),
            str(contents.events_of(status.identity)),
            str(len(contents.parts_of(status.identity))),
            str(status.attempts),
            Text(status.reason or " ".join(status.notes)),
        )
    return table


def damaged(lineage: Lineage) -> Iterator[str]:
    """Read every part of the runs that are done; a sentence for each that is not as it was."""
    for part in lineage.parts():
        path = lineage.folder / part.name
        try:
            content = content_of(path)
        except FileError as error:
            yield str(error)
            continue
        if (content.rows, content.sha256) != (part.rows, part.sha256):
            yield f"{path} holds something else than what was published."
