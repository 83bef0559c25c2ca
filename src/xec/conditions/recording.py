"""Writing a revision, within a transaction that keeps other writers out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, func, insert, select

from xec.conditions import reading
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Tag, Validity, refuse_overlap
from xec.conditions.revisions import Change, Note
from xec.conditions.schema import DeadChannelRow, DeadListRow, RevisionRow, ValidityRow
from xec.errors import ConditionsError


def _add_list(connection: Connection, dead: DeadList) -> None:
    """Write a list that is not there yet; its channels first, since its own row seals it."""
    query = select(DeadListRow.list_id).where(DeadListRow.list_id == dead.list_id)
    if connection.scalar(query) is not None:
        return
    rows = [{"list_id": dead.list_id, "channel": channel} for channel in dead.channels]
    if rows:
        connection.execute(insert(DeadChannelRow), rows)
    connection.execute(insert(DeadListRow), {"list_id": dead.list_id, "dead": len(dead)})


def _moment(connection: Connection) -> datetime:
    """Now, but always later than the last revision: a clock may have been set back."""
    now = datetime.now(UTC)
    last = connection.scalar(select(func.max(RevisionRow.recorded_at)))
    return now if last is None else max(now, last + timedelta(microseconds=1))


def _validities(changes: Sequence[Change]) -> list[Validity]:
    for change in changes:
        dead = change.dead_list
        # An id given by hand could name two lists; in the database an id is a digest.
        if dead is not None and dead.list_id != DeadList.of(dead.channels).list_id:
            raise ConditionsError(
                f"The list for runs {change.runs} has the id {dead.list_id}, which is not the "
                "digest of its channels."
            )
    return [
        Validity(change.runs, None if change.dead_list is None else change.dead_list.list_id)
        for change in changes
    ]


def record(
    connection: Connection, tag: Tag, changes: Sequence[Change], note: Note, only_new: bool
) -> int | None:
    """Write a revision and return its number, or None where it would change nothing.

    Args:
        connection: in a transaction that holds the writers' lock.
        tag: whose lists.
        changes: lists for runs; their intervals must not overlap.
        note: who and why.
        only_new: write only those parts of the intervals that differ from what is in force.

    Raises:
        ConditionsError: there are no changes, intervals overlap, or an id is no digest.
    """
    wanted = _validities(changes)
    if not wanted:
        raise ConditionsError("A revision without any interval says nothing.")
    refuse_overlap(wanted)
    new = reading.timeline(connection, tag, reading.newest(connection)).changed_by(wanted)
    if not new:
        return None
    written = new if only_new else wanted
    used = {validity.list_id for validity in written}
    lists = {c.dead_list.list_id: c.dead_list for c in changes if c.dead_list is not None}
    for list_id in sorted(lists.keys() & used):
        _add_list(connection, lists[list_id])
    return _add_revision(connection, tag, written, note)


def _add_revision(connection: Connection, tag: Tag, written: Sequence[Validity], note: Note) -> int:
    """Write intervals, and then the revision's own row, which seals them."""
    number = reading.newest(connection) + 1
    connection.execute(
        insert(ValidityRow),
        [
            {
                "revision": number,
                "first_run": validity.runs.first,
                "last_run": None if validity.runs.open else validity.runs.last,
                "list_id": validity.list_id,
            }
            for validity in written
        ],
    )
    connection.execute(
        insert(RevisionRow),
        {
            "number": number,
            "tag": tag.value,
            "author": note.author,
            "reason": note.reason,
            "source": note.source,
            "recorded_at": _moment(connection),
        },
    )
    return number
