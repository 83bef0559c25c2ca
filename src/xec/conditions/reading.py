"""Questions to the conditions database, within a connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby

from sqlalchemy import Connection, func, or_, select

from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import LAST_RUN, Runs, Segment, Tag, Timeline, Validity
from xec.conditions.revisions import AsOf, Note, Revision
from xec.conditions.schema import DeadChannelRow, DeadListRow, RevisionRow, ValidityRow
from xec.errors import ConditionsError, UnknownList


def newest(connection: Connection) -> int:
    """The number of the last revision; 0 when there is none."""
    number = connection.scalar(select(func.max(RevisionRow.number)))
    return 0 if number is None else int(number)


def _at(connection: Connection, moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ConditionsError(f"The time {moment} has no zone: write it with Z or +01:00.")
    if moment > datetime.now(UTC):
        raise ConditionsError(
            f"What holds as of {moment} is not known before then: give a time that has passed."
        )
    query = select(func.max(RevisionRow.number)).where(RevisionRow.recorded_at <= moment)
    return int(connection.scalar(query) or 0)


def head_of(connection: Connection, as_of: AsOf) -> int:
    """The last revision to look at.

    Raises:
        ConditionsError: there is no such revision yet, or the time is still to come.
    """
    if isinstance(as_of, datetime):
        return _at(connection, as_of)
    last = newest(connection)
    if as_of is None:
        return last
    if not 1 <= as_of <= last:
        have = f"the revisions are 1 to {last}" if last else "nothing is recorded yet"
        raise ConditionsError(f"There is no revision {as_of}: {have}.")
    return as_of


def _runs(first: int, last: int | None) -> Runs:
    return Runs(first, LAST_RUN if last is None else last)


def validities(
    connection: Connection, tag: Tag, head: int
) -> Iterator[tuple[int, Sequence[Validity]]]:
    """Each revision of a tag up to `head` with its intervals, in the order of recording."""
    query = (
        select(
            ValidityRow.revision, ValidityRow.first_run, ValidityRow.last_run, ValidityRow.list_id
        )
        .join(RevisionRow, RevisionRow.number == ValidityRow.revision)
        .where(RevisionRow.tag == tag.value, RevisionRow.number <= head)
        .order_by(ValidityRow.revision, ValidityRow.first_run)
    )
    for number, rows in groupby(connection.execute(query), key=lambda row: row[0]):
        yield number, [Validity(_runs(first, last), list_id) for _, first, last, list_id in rows]


def timeline(connection: Connection, tag: Tag, head: int) -> Timeline:
    """Which list is in force for which runs as of revision `head`."""
    return Timeline.of(validities(connection, tag, head))


def in_force(connection: Connection, tag: Tag, head: int, run: int) -> Segment | None:
    """What holds for `run` as of revision `head`, or None where no list is known.

    The same as a look into `timeline`, without reading all of it.
    """
    query = (
        select(
            ValidityRow.first_run, ValidityRow.last_run, ValidityRow.list_id, ValidityRow.revision
        )
        .join(RevisionRow, RevisionRow.number == ValidityRow.revision)
        .where(RevisionRow.tag == tag.value, RevisionRow.number <= head)
        .where(ValidityRow.first_run <= run)
        .where(or_(ValidityRow.last_run.is_(None), ValidityRow.last_run >= run))
        .order_by(ValidityRow.revision.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    first, last, list_id, revision = row
    return None if list_id is None else Segment(_runs(first, last), list_id, revision)


def dead_list(connection: Connection, list_id: str) -> DeadList:
    """The list of this id.

    Raises:
        UnknownList: no list has it.
        ConditionsError: its channels are not those that its id was made of.
    """
    known = connection.scalar(select(DeadListRow.list_id).where(DeadListRow.list_id == list_id))
    if known is None:
        raise UnknownList(f"No dead-channel list {list_id[:80]} is known.")
    query = select(DeadChannelRow.channel).where(DeadChannelRow.list_id == list_id)
    dead = DeadList.of(connection.scalars(query))
    if dead.list_id != list_id:
        raise ConditionsError(
            f"The dead-channel list {list_id} is damaged in the database: its channels have the "
            f"digest {dead.list_id}; restore the database from a copy."
        )
    return dead


def revisions(connection: Connection, tag: Tag | None) -> list[Revision]:
    """The history, of one tag or of both, the first revision first."""
    query = select(
        RevisionRow.number,
        RevisionRow.tag,
        RevisionRow.author,
        RevisionRow.reason,
        RevisionRow.source,
        RevisionRow.recorded_at,
    ).order_by(RevisionRow.number)
    if tag is not None:
        query = query.where(RevisionRow.tag == tag.value)
    head = newest(connection)
    intervals: dict[int, Sequence[Validity]] = {}
    for each in Tag if tag is None else (tag,):
        intervals.update(validities(connection, each, head))
    return [
        Revision(
            number, Tag(of), Note(author, reason, source), when, tuple(intervals.get(number, ()))
        )
        for number, of, author, reason, source, when in connection.execute(query)
        if number <= head
    ]
