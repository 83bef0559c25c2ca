"""Which dead list holds for a run, and how that is known; needs no database.

What is asked of a database at one moment can be carried to processes that cannot reach it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from xec.conditions.dead_list import DeadList
from xec.errors import UnknownRun


@dataclass(frozen=True, slots=True)
class Held:
    """The list that holds for an event, and how that is known.

    Args:
        dead: the list.
        revision: of the conditions database, as ``ONLINE@7``; empty for any other list.
        stale_since: when the database last confirmed it, while it is away; empty otherwise.
    """

    dead: DeadList
    revision: str = ""
    stale_since: str = ""


class ListsByRun(Protocol):
    """Whoever knows the lists of runs."""

    def of_run(self, run: int) -> Held:
        """The list of a run.

        Raises:
            UnknownRun: no list is known for it, which never means that nothing is dead.
        """
        ...


@dataclass(frozen=True, slots=True)
class ListsOfRuns:
    """The lists of some runs as they were found.

    Args:
        known: run and list, each run once.
    """

    known: tuple[tuple[int, Held], ...]

    @classmethod
    def found(cls, runs: Iterable[int], lists: ListsByRun) -> ListsOfRuns:
        """The lists of these runs.

        Raises:
            UnknownRun: no list is known for one of them.
        """
        return cls(tuple((run, lists.of_run(run)) for run in sorted(set(runs))))

    def of_run(self, run: int) -> Held:
        """The list of a run.

        Raises:
            UnknownRun: it is none of those that were looked up.
        """
        for known, held in self.known:
            if known == run:
                return held
        raise UnknownRun(f"The dead-channel list of run {run} was not looked up.")

    def told(self) -> list[list[int | str]]:
        """Run, id of its list and revision that says so: all that decides results."""
        return [[run, held.dead.list_id, held.revision] for run, held in self.known]
