"""The store in SQLite and in a real PostgreSQL: lookups, history, and what held at a time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from support_conditions import NOTE, address_of, writer
from xec.conditions.address import Address
from xec.conditions.database import Access, connect
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change, Note
from xec.conditions.store import ConditionsStore
from xec.errors import ConditionsError, ConditionsUnavailable, RunAfterLastInterval, UnknownRun

ONLINE, OFFLINE = Tag.ONLINE, Tag.OFFLINE
A, B, C = (DeadList.of(channels) for channels in ((17, 18), (17, 4759), range(300, 316)))


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return address_of(tmp_path / "conditions.sqlite")
    return address_of(request.getfixturevalue("postgresql").new_database())


@pytest.fixture
def store(address: Address) -> Any:
    with writer(address) as store:
        yield store


def test_a_run_gets_its_list_and_its_origin(store: ConditionsStore) -> None:
    first = store.record(ONLINE, [Change(Runs(100, 199), A), Change(Runs(300), B)], NOTE)
    known = store.lookup(150, ONLINE)
    assert known.dead_list == A
    assert (known.run, known.tag, known.runs) == (150, ONLINE, Runs(100, 199))
    assert (known.revision, known.head) == (first, first) == (1, 1)
    assert store.lookup(10**12, ONLINE).dead_list == B
    assert store.lookup(300, ONLINE).runs.open


def test_unknown_runs_are_errors_and_never_an_empty_list(store: ConditionsStore) -> None:
    with pytest.raises(ConditionsError):
        store.lookup(150, ONLINE)
    store.record(OFFLINE, [Change(Runs(0), A)], NOTE)
    with pytest.raises(UnknownRun, match="nor for any other"):
        store.lookup(150, ONLINE)
    store.record(ONLINE, [Change(Runs(100, 199), A), Change(Runs(300, 399), B)], NOTE)
    with pytest.raises(UnknownRun, match="gap") as gap:
        store.lookup(250, ONLINE)
    assert not isinstance(gap.value, RunAfterLastInterval)
    with pytest.raises(RunAfterLastInterval, match="after run 399"):
        store.lookup(400, ONLINE)
    with pytest.raises(ConditionsError, match="no run number"):
        store.lookup(-1, ONLINE)


def test_nothing_dead_is_a_list_like_any_other(store: ConditionsStore) -> None:
    store.record(ONLINE, [Change(Runs(5, 6), DeadList.of(()))], NOTE)
    assert store.lookup(5, ONLINE).dead_list == DeadList.of(())
    with pytest.raises(RunAfterLastInterval):
        store.lookup(7, ONLINE)


def test_a_superseded_interval_stays_readable(store: ConditionsStore) -> None:
    store.record(OFFLINE, [Change(Runs(100, 199), A)], NOTE)
    between = datetime.now(UTC)
    time.sleep(0.002)
    store.record(OFFLINE, [Change(Runs(150, 159), B)], Note("analyst", "sensor 18 is alive"))
    store.record(OFFLINE, [Change(Runs(150, 154), None)], Note("analyst", "not sure any more"))

    assert [store.lookup(run, OFFLINE).dead_list for run in (149, 155, 160)] == [A, B, A]
    with pytest.raises(UnknownRun, match="gap"):
        store.lookup(150, OFFLINE)
    assert store.lookup(150, OFFLINE, as_of=1).dead_list == A
    assert store.lookup(150, OFFLINE, as_of=2).dead_list == B
    assert store.lookup(150, OFFLINE, as_of=between).dead_list == A
    assert store.lookup(150, OFFLINE, as_of=between).head == 1
    elsewhere = between.astimezone().replace(microsecond=between.microsecond)
    assert store.lookup(155, OFFLINE, as_of=elsewhere).dead_list == A
    assert store.dead_list(B.list_id) == B


def test_moments_that_say_nothing_are_refused(store: ConditionsStore) -> None:
    store.record(OFFLINE, [Change(Runs(100, 199), A)], NOTE)
    with pytest.raises(ConditionsError, match=r"no revision 2: the revisions are 1 to 1"):
        store.lookup(150, OFFLINE, as_of=2)
    with pytest.raises(ConditionsError, match="no revision 0"):
        store.lookup(150, OFFLINE, as_of=0)
    with pytest.raises(ConditionsError, match="not known before then"):
        store.lookup(150, OFFLINE, as_of=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(ConditionsError, match="has no zone"):
        store.lookup(150, OFFLINE, as_of=datetime(2026, 1, 1))
    with pytest.raises(UnknownRun, match="nor for any other"):
        store.lookup(150, OFFLINE, as_of=datetime(2001, 1, 1, tzinfo=UTC))


def test_history_says_who_when_why_and_what(store: ConditionsStore) -> None:
    before = datetime.now(UTC)
    store.record(OFFLINE, [Change(Runs(100, 199), A)], NOTE)
    store.record(ONLINE, [Change(Runs(7), None), Change(Runs(3, 5), B)], NOTE)
    one, other = store.history()
    assert (one.number, one.tag, one.note) == (1, OFFLINE, NOTE)
    assert before <= one.recorded_at < other.recorded_at <= datetime.now(UTC)
    said = [(validity.runs, validity.list_id) for validity in other.validities]
    assert said == [(Runs(3, 5), B.list_id), (Runs(7), None)]
    assert [revision.number for revision in store.history(ONLINE)] == [2]


def test_what_is_in_force_already_is_not_recorded_again(store: ConditionsStore) -> None:
    assert store.record(OFFLINE, [Change(Runs(100, 199), A)], NOTE) == 1
    assert store.record(OFFLINE, [Change(Runs(120, 130), A)], NOTE) is None
    assert store.record(OFFLINE, [Change(Runs(500, 600), None)], NOTE) is None
    assert store.record(ONLINE, [Change(Runs(120, 130), A)], NOTE) == 2
    changes = [Change(Runs(90, 130), A), Change(Runs(131, 140), C)]
    assert store.record(OFFLINE, changes, NOTE, only_new=True) == 3
    (last,) = (revision for revision in store.history() if revision.number == 3)
    runs = [validity.runs for validity in last.validities]
    assert runs == [Runs(90, 99), Runs(131, 140)]


def test_revisions_that_contradict_themselves_are_refused_whole(store: ConditionsStore) -> None:
    store.record(ONLINE, [Change(Runs(0), C)], NOTE)
    with pytest.raises(ConditionsError, match="overlap within one revision"):
        store.record(OFFLINE, [Change(Runs(1, 9), A), Change(Runs(9), B)], NOTE)
    with pytest.raises(ConditionsError, match="says nothing"):
        store.record(OFFLINE, [], NOTE)
    with pytest.raises(ConditionsError, match="not the digest"):
        store.record(OFFLINE, [Change(Runs(1), DeadList((3,), "board 17"))], NOTE)
    assert store.history(OFFLINE) == []
    with pytest.raises(ConditionsError, match="No dead-channel list"):
        store.dead_list(A.list_id)


@pytest.mark.parametrize(
    ("author", "reason", "message"),
    [
        ("", "why", "needs author"),
        ("me", " \n", "needs reason"),
        ("me", "\x1b[2Jgone", "control codes"),
        ("me", "x" * 501, "at most 500"),
    ],
)
def test_a_note_is_one_plain_line(author: str, reason: str, message: str) -> None:
    with pytest.raises(ConditionsError, match=message):
        Note(author, reason)
    assert Note("me", "two\n lines ").reason == "two lines"


def test_many_writers_get_numbers_in_turn(address: Address) -> None:
    """Each writer has connections of its own; no number is lost, given twice, or out of turn."""
    with writer(address) as store:
        store.record(ONLINE, [Change(Runs(0, 0), A)], NOTE)
    numbers: list[int | None] = []
    failed: list[BaseException] = []

    def write(first: int) -> None:
        try:
            with writer(address) as store:
                for run in range(first, first + 8):
                    numbers.append(store.record(ONLINE, [Change(Runs(run, run), B)], NOTE))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(10 * n,)) for n in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(number or 0 for number in numbers) == list(range(2, 26))
    with ConditionsStore(address) as store:
        history = store.history()
    times = [revision.recorded_at for revision in history]
    assert times == sorted(set(times))
    assert [revision.number for revision in history] == list(range(1, 26))


def test_threads_may_share_a_store(address: Address) -> None:
    lists = [DeadList.of((run,)) for run in range(20)]
    with writer(address) as store:
        store.record(ONLINE, [Change(Runs(r, r), dead) for r, dead in enumerate(lists)], NOTE)
    with ConditionsStore(address) as store, ThreadPoolExecutor(8) as pool:
        runs = [17 * step % 20 for step in range(60)]
        found = pool.map(lambda run: store.lookup(run, ONLINE).dead_list, runs)
        assert list(found) == [lists[run] for run in runs]


def test_a_clock_that_was_set_back_does_not_reorder(
    store: ConditionsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xec.conditions import recording

    class SetBack(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2020, 1, 1, tzinfo=tz)

    store.record(OFFLINE, [Change(Runs(1, 2), A)], NOTE)
    monkeypatch.setattr(recording, "datetime", SetBack)
    store.record(OFFLINE, [Change(Runs(3, 4), A)], NOTE)
    one, other = store.history()
    assert other.recorded_at - one.recorded_at == timedelta(microseconds=1)


def test_a_damaged_list_is_not_used(address: Address) -> None:
    with writer(address) as store:
        store.record(OFFLINE, [Change(Runs(1), A)], NOTE)
        engine = connect(address, Access.WRITE)
        with engine.begin() as connection:
            # Whoever owns the tables can get around their guards.
            if address.kind == "sqlite":
                connection.execute(text("DROP TRIGGER dead_channel_no_delete"))
            else:
                connection.execute(text("ALTER TABLE dead_channel DISABLE TRIGGER USER"))
            connection.execute(text("DELETE FROM dead_channel WHERE channel = 17"))
        engine.dispose()
        with pytest.raises(ConditionsError, match=f"{A.list_id} is damaged"):
            store.lookup(5, OFFLINE)


def test_a_reader_cannot_write(address: Address) -> None:
    with writer(address) as store:
        store.record(OFFLINE, [Change(Runs(1), A)], NOTE)
    with (
        ConditionsStore(address) as reader,
        pytest.raises(ConditionsError, match="opened for reading only"),
    ):
        reader.record(OFFLINE, [Change(Runs(1), B)], NOTE)
    engine = connect(address, Access.READ)
    try:
        # The database itself refuses, whatever the program tries.
        with pytest.raises(Exception, match=r"read-?only"), engine.begin() as connection:
            connection.execute(text("INSERT INTO dead_list VALUES ('x', 0)"))
    finally:
        engine.dispose()


def test_no_database_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "none.sqlite"
    with pytest.raises(ConditionsUnavailable, match=r"none\.sqlite does not exist"):
        ConditionsStore(address_of(missing)).lookup(1, OFFLINE)
    assert not missing.exists()
    away = ConditionsStore(address_of("postgresql://xec@127.0.0.1:1/x"))
    with pytest.raises(ConditionsUnavailable, match="cannot be reached: Connection refused"):
        away.lookup(1, OFFLINE)
