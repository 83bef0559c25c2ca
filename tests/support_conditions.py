"""Revisions of dead-channel lists for tests, and what holds after them, the slow way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hypothesis import strategies as st

from xec.conditions.address import Address, parse_address
from xec.conditions.database import Access
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import LAST_RUN, Runs, Tag
from xec.conditions.revisions import Change, Note
from xec.conditions.store import ConditionsStore
from xec.errors import RunAfterLastInterval, UnknownRun

NOTE = Note("shift crew", "a board was replaced", "elog 1234")
# Runs that tests look at; whatever has no end reaches beyond them.
N_RUNS = 40

# A few lists that share channels, the empty one among them.
LISTS = tuple(DeadList.of(channels) for channels in ((), (7,), (7, 8), (4759, 0), range(16)))


@st.composite
def revisions(draw: st.DrawFn, lists: Sequence[DeadList] = LISTS) -> list[Change]:
    """A revision: intervals that do not overlap, in any order, some open, some withdrawals."""
    cuts = sorted(draw(st.sets(st.integers(0, N_RUNS - 1), min_size=1, max_size=5)))
    changes = []
    for index, first in enumerate(cuts):
        limit = cuts[index + 1] - 1 if index + 1 < len(cuts) else N_RUNS + 5
        last = draw(st.integers(first, limit))
        if limit > N_RUNS and draw(st.booleans()):
            last = LAST_RUN
        changes.append(Change(Runs(first, last), draw(st.sampled_from([None, *lists]))))
    return draw(st.permutations(changes))


def replayed(history: Iterable[Sequence[Change]]) -> dict[int, DeadList]:
    """Run -> list after these revisions, one run and one change after the other.

    Runs from N_RUNS to N_RUNS + 9 stand for all later ones.
    """
    known: dict[int, DeadList] = {}
    for changes in history:
        for change in changes:
            for run in range(change.runs.first, min(change.runs.last, N_RUNS + 9) + 1):
                if change.dead_list is None:
                    known.pop(run, None)
                else:
                    known[run] = change.dead_list
    return known


def expected(known: dict[int, DeadList], run: int) -> DeadList | type[UnknownRun]:
    """What a lookup answers: a list, or the class of its error."""
    if run in known:
        return known[run]
    return RunAfterLastInterval if known and run > max(known) else UnknownRun


def answer(store: ConditionsStore, run: int, tag: Tag, as_of: int | None) -> object:
    """What a store says of a run, in the form of `expected`."""
    try:
        return store.lookup(run, tag, as_of).dead_list
    except UnknownRun as error:
        return type(error)


def address_of(text: str | Path) -> Address:
    return parse_address(str(text), ("postgresql", "sqlite"), "the test's database")


def writer(address: Address) -> ConditionsStore:
    return ConditionsStore(address, Access.WRITE)
