"""The store of dead-channel lists by run: append-only revisions in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from sqlalchemy import Connection

from xec.conditions import reading, recording
from xec.conditions.address import Address
from xec.conditions.database import (
    Access,
    check_schema,
    connect,
    explained,
    lock_for_writing,
    migrate,
    refuse_missing_file,
)
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Tag, Timeline, run_number
from xec.conditions.revisions import AsOf, Change, Known, Note, Revision
from xec.errors import ConditionsError


class ConditionsStore:
    """Dead-channel lists by run and tag, with their history. Threads may share one.

    Nothing is opened before the first question, so that a server starts while the database is
    away. A store for writing creates the tables where they are missing.

    Every method raises `ConditionsUnavailable` when the database cannot be reached, and
    `ConditionsError` when it is damaged, of another version, or refuses.
    """

    def __init__(self, address: Address, access: Access = Access.READ) -> None:
        self.address = address
        self._access = access
        self._engine = connect(address, access)
        self._checked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if not self._checked:
            refuse_missing_file(self.address)
        with explained(self.address), self._engine.connect() as connection:
            if not self._checked:
                check_schema(connection, self.address)
                self._checked = True
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self._access is not Access.WRITE:
            raise ConditionsError(f"{self.address} was opened for reading only.")
        with explained(self.address), self._engine.begin() as connection:
            lock_for_writing(connection)
            migrate(connection, self.address)
            yield connection
        self._checked = True

    def lookup(self, run: int, tag: Tag, as_of: AsOf = None) -> Known:
        """The list that is in force for a run.

        Raises:
            RunAfterLastInterval: the run comes after all known ones.
            UnknownRun: no list is known for it.
        """
        number = run_number(run)
        with self._reading() as connection:
            head = reading.head_of(connection, as_of)
            segment = reading.in_force(connection, tag, head, number)
            if segment is None:  # find() knows what kind of unknown it is
                segment = reading.timeline(connection, tag, head).find(number)
            dead = reading.dead_list(connection, segment.list_id)
        return Known(number, tag, dead, segment.runs, segment.revision, head)

    def timeline(self, tag: Tag, as_of: AsOf = None) -> tuple[Timeline, int]:
        """Which list is in force for which runs, and the last revision that was looked at."""
        with self._reading() as connection:
            head = reading.head_of(connection, as_of)
            return reading.timeline(connection, tag, head), head

    def dead_list(self, list_id: str) -> DeadList:
        """The list of this id, in force or not.

        Raises:
            UnknownList: no list has it.
            ConditionsError: it is damaged.
        """
        with self._reading() as connection:
            return reading.dead_list(connection, list_id)

    def history(self, tag: Tag | None = None) -> list[Revision]:
        """All revisions, of one tag or of both, the first one first."""
        with self._reading() as connection:
            return reading.revisions(connection, tag)

    def record(
        self, tag: Tag, changes: Sequence[Change], note: Note, *, only_new: bool = False
    ) -> int | None:
        """Record lists for runs as one revision.

        For the runs that `changes` name it wins over all earlier revisions; these stay readable
        "as of" their numbers and times.

        Args:
            tag: whose lists.
            changes: lists for runs; the intervals must not overlap.
            note: who and why.
            only_new: leave out what is in force already.

        Returns:
            The revision's number, or None where everything is in force already.

        Raises:
            ConditionsError: intervals overlap, or the store is for reading.
        """
        with self._writing() as connection:
            return recording.record(connection, tag, changes, note, only_new)
