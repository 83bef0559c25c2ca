"""The dead lists of the runs of an input, which are then a part of what it is recognised by."""

from __future__ import annotations

from dataclasses import replace

from xec.conditions.held import ListsByRun, ListsOfRuns
from xec.errors import FileError, UnknownRun
from xec.io.events import open_events
from xec.lineage import digest
from xec_client.reprocess.sources import Source


def with_lists(source: Source, lists: ListsByRun) -> Source:
    """The input with the lists of its runs, under an identity that they decide as well.

    So an input is reprocessed, beside what was made before, when the list of one of its runs or
    the revision that says so changes, and only then.

    Args:
        source: the input.
        lists: knows the lists of all runs.

    Returns:
        The input; with a problem where no list is known for one of its runs, which never means
        that nothing is dead, or where it cannot be opened.

    Raises:
        ConditionsError: the database is away, or damaged.
    """
    if source.problem:
        return source
    try:
        with open_events(source.path) as file:
            found = ListsOfRuns.found(file.runs(), lists)
    except (FileError, UnknownRun) as error:
        return replace(source, identity="", problem=str(error))
    return replace(source, identity=digest([source.identity, found.told()]), lists=found)
