"""Dead-channel lists by run as they stand at one moment, for a work that lasts longer than that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xec.conditions.address import conditions_address
from xec.conditions.database import refuse_missing_file
from xec.conditions.dead_list import DeadList
from xec.conditions.held import Held
from xec.conditions.intervals import LAST_RUN, Tag
from xec.conditions.store import ConditionsStore
from xec.errors import UnknownRun


class Snapshot:
    """The lists of one tag; what is recorded later does not change them.

    Args:
        store: of the lists.
        tag: whose lists.

    Raises:
        ConditionsError: as `ConditionsStore`.
    """

    def __init__(self, store: ConditionsStore, tag: Tag) -> None:
        self.tag = tag
        self._store = store
        self._timeline, self.head = store.timeline(tag)
        self._lists: dict[str, DeadList] = {}

    def of_run(self, run: int) -> Held:
        """The list that is in force for a run.

        Raises:
            UnknownRun: no list is known for it.
            ConditionsError: the database is away, or damaged.
        """
        if not 0 <= run <= LAST_RUN:
            raise UnknownRun(f"{run} is no run number: they go from 0 on.")
        segment = self._timeline.find(run)
        if segment.list_id not in self._lists:
            self._lists[segment.list_id] = self._store.dead_list(segment.list_id)
        return Held(self._lists[segment.list_id], f"{self.tag}@{segment.revision}")


@contextmanager
def open_snapshot(address: str | None, tag: Tag) -> Iterator[Snapshot]:
    """The lists of one tag in a database, as they stand now.

    Args:
        address: URL without a password, or path; None takes the environment's.
        tag: whose lists.

    Raises:
        UsageError: the address makes no sense, or holds a password.
        ConditionsError: the file does not exist, or as `ConditionsStore`.
    """
    found = conditions_address(address, name="--conditions")
    refuse_missing_file(found)
    with ConditionsStore(found) as store:
        yield Snapshot(store, tag)
