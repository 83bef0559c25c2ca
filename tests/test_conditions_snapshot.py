"""Lists by run as they stood at one moment: the same as a lookup then, whatever comes later."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support_conditions import LISTS, N_RUNS, NOTE, address_of, answer, revisions, writer
from xec.conditions.held import ListsOfRuns
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.snapshot import Snapshot, open_snapshot
from xec.errors import ConditionsUnavailable, UnknownRun, UsageError


def told(lists: Snapshot, run: int) -> object:
    """In the form of `support_conditions.answer`."""
    try:
        return lists.of_run(run).dead
    except UnknownRun as error:
        return type(error)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(revisions(), min_size=1, max_size=4), later=revisions())
def test_it_says_what_a_lookup_said_when_it_was_taken(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[Change]], later: list[Change]
) -> None:
    address = address_of(tmp_path_factory.mktemp("snapshot") / "conditions.sqlite")
    with writer(address) as store:
        for changes in history:
            store.record(Tag.ONLINE, changes, NOTE)
        before = [answer(store, run, Tag.ONLINE, None) for run in range(N_RUNS + 2)]
        lists = Snapshot(store, Tag.ONLINE)
        store.record(Tag.ONLINE, later, NOTE)
        assert [told(lists, run) for run in range(N_RUNS + 2)] == before


def test_it_names_the_revision_and_never_the_other_tag(tmp_path: Path) -> None:
    address = address_of(tmp_path / "conditions.sqlite")
    with writer(address) as store:
        store.record(Tag.OFFLINE, [Change(Runs(1, 9), LISTS[1])], NOTE)
        store.record(Tag.ONLINE, [Change(Runs(5, 6), LISTS[2])], NOTE)
    with open_snapshot(str(tmp_path / "conditions.sqlite"), Tag.ONLINE) as lists:
        assert lists.of_run(5).revision == "ONLINE@2"
        for unknown in (1, 9, -1, 2**63):
            with pytest.raises(UnknownRun):
                lists.of_run(unknown)


def test_what_was_found_travels_without_the_database(tmp_path: Path) -> None:
    address = address_of(tmp_path / "conditions.sqlite")
    with writer(address) as store:
        store.record(Tag.ONLINE, [Change(Runs(5, 6), LISTS[2])], NOTE)
        found = ListsOfRuns.found([6, 5, 6], Snapshot(store, Tag.ONLINE))
    there: ListsOfRuns = pickle.loads(pickle.dumps(found))
    assert there == found
    assert there.of_run(6).dead == LISTS[2]
    assert [run for run, *_ in there.told()] == [5, 6]
    with pytest.raises(UnknownRun, match="run 7 was not looked up"):
        there.of_run(7)


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(ConditionsUnavailable, match="does not exist"),
        open_snapshot(str(tmp_path / "none.sqlite"), Tag.ONLINE),
    ):
        pass
    with (
        pytest.raises(UsageError, match="--conditions holds a password") as caught,
        open_snapshot("postgresql://u:secret@h/d", Tag.ONLINE),
    ):
        pass
    assert "secret" not in str(caught.value)
