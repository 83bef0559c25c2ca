"""The store against a dictionary of runs, after any history."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support_conditions import (
    LISTS,
    N_RUNS,
    NOTE,
    address_of,
    answer,
    expected,
    replayed,
    revisions,
    writer,
)
from support_databases import PostgreSQL, quick_folder
from xec.conditions.address import Address
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.store import ConditionsStore

histories = st.lists(st.tuples(st.sampled_from(Tag), revisions()), min_size=1, max_size=6)
numbers = count(1)


@pytest.fixture(scope="module")
def fresh_file() -> Iterator[Path]:
    """A database with its tables and one revision; copies of it are quickly made."""
    folder = quick_folder()
    path = folder / "template.sqlite"
    with writer(address_of(path)) as store:
        store.record(Tag.ONLINE, [Change(Runs(3, 4), LISTS[1])], NOTE)
    yield path
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def fresh_database(postgresql: PostgreSQL) -> str:
    url = postgresql.new_database()
    with writer(address_of(url)) as store:
        store.record(Tag.ONLINE, [Change(Runs(3, 4), LISTS[1])], NOTE)
    return url.rpartition("/")[2]


def agrees(address: Address, history: list[tuple[Tag, list[Change]]]) -> None:
    """Record a history and compare every run, as of every revision, with the replay."""
    recorded: list[tuple[Tag, list[Change]]] = [(Tag.ONLINE, [Change(Runs(3, 4), LISTS[1])])]
    with writer(address) as store:
        for tag, changes in history:
            number = store.record(tag, changes, NOTE)
            if number is not None:
                recorded.append((tag, changes))
                assert number == len(recorded)
    with ConditionsStore(address) as store:
        for head in range(1, len(recorded) + 1):
            for tag in Tag:
                known = replayed(changes for of, changes in recorded[:head] if of is tag)
                said = [answer(store, run, tag, head) for run in range(0, N_RUNS + 9, 3)]
                assert said == [expected(known, run) for run in range(0, N_RUNS + 9, 3)]
        for tag in Tag:
            assert known_of(store, tag) == replayed(c for of, c in [*recorded] if of is tag)


def known_of(store: ConditionsStore, tag: Tag) -> object:
    timeline, _ = store.timeline(tag)
    lists = {dead.list_id: dead for dead in LISTS}
    return {
        run: lists[segment.list_id]
        for segment in timeline.segments
        for run in range(segment.runs.first, min(segment.runs.last, N_RUNS + 9) + 1)
    }


@settings(max_examples=25)
@given(history=histories)
def test_sqlite_says_what_a_replay_says(
    fresh_file: Path, history: list[tuple[Tag, list[Change]]]
) -> None:
    path = fresh_file.with_name(f"{next(numbers)}.sqlite")
    shutil.copy(fresh_file, path)
    agrees(address_of(path), history)


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(history=histories)
def test_postgresql_says_what_a_replay_says(
    postgresql: PostgreSQL, fresh_database: str, history: list[tuple[Tag, list[Change]]]
) -> None:
    agrees(address_of(postgresql.new_database(fresh_database)), history)
