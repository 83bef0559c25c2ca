"""What a revision of the dead-channel lists says, and who said it why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag, Validity
from xec.conditions.schema import TEXT_LENGTH
from xec.errors import ConditionsError

# As things stood after a revision, or at a time (with its zone); None is now. A revision number
# is exact; a time is, once the writers of before it have finished.
AsOf: TypeAlias = int | datetime | None


@dataclass(frozen=True, slots=True)
class Change:
    """A list for some runs, or (None) the withdrawal of what is known of them."""

    runs: Runs
    dead_list: DeadList | None


def _one_line(name: str, text: str, required: bool) -> str:
    """`text` without what could end a line or steer a terminal."""
    shown = " ".join(text.split())
    if required and not shown:
        raise ConditionsError(f"A revision needs {name}: it stays in the history for good.")
    if not shown.isprintable():
        raise ConditionsError(f"The {name} of a revision is plain text, without control codes.")
    if len(shown) > TEXT_LENGTH:
        raise ConditionsError(f"The {name} of a revision has at most {TEXT_LENGTH} characters.")
    return shown


@dataclass(frozen=True, slots=True)
class Note:
    """Who records something, why, and from where (a file, a database; may be empty).

    Raises:
        ConditionsError: author or reason is missing, or a text is no single line.
    """

    author: str
    reason: str
    source: str = ""

    def __post_init__(self) -> None:
        for name, required in (("author", True), ("reason", True), ("source", False)):
            object.__setattr__(self, name, _one_line(name, getattr(self, name), required))


@dataclass(frozen=True, slots=True)
class Revision:
    """One entry of the history."""

    number: int
    tag: Tag
    note: Note
    recorded_at: datetime
    validities: tuple[Validity, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The dead-channel list that is in force for a run.

    Args:
        run: which was asked for.
        tag: whose lists.
        dead_list: the list, possibly of no channel: then nothing is dead.
        runs: the interval of the entry that says so; a later one may have taken runs from it.
        revision: the one that says so.
        head: the last revision that was looked at: asking "as of" it gives this answer for ever.
    """

    run: int
    tag: Tag
    dead_list: DeadList
    runs: Runs
    revision: int
    head: int
