"""The cache of dead lists while a real PostgreSQL stops, hangs, and comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from support_conditions import NOTE, address_of, writer
from support_databases import PostgreSQL
from xec.conditions.cache import Cached, ConditionsCache
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.store import ConditionsStore
from xec.errors import ConditionsUnavailable, RunAfterLastInterval, UnknownRun

A, B = DeadList.of((17, 18)), DeadList.of((17,))


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    """A database with list A for runs 100 to 199 and 300 to 399; the server runs on afterwards."""
    url = postgresql.new_database()
    with writer(address_of(url)) as store:
        changes = [Change(Runs(100, 199), A), Change(Runs(300, 399), A)]
        store.record(Tag.ONLINE, changes, NOTE)
    yield url
    if postgresql.process is not None and postgresql.process.poll() is not None:
        postgresql.start()


@pytest.fixture
def cache(url: str) -> Iterator[ConditionsCache]:
    with ConditionsStore(address_of(url)) as store:
        yield ConditionsCache(store, Tag.ONLINE, fresh=0, patience=2, retry=0.05)


def until_fresh(cache: ConditionsCache, run: int) -> Cached:
    limit = time.monotonic() + 60
    while (answer := cache.lookup(run)).stale:
        assert time.monotonic() < limit
        time.sleep(0.02)
    return answer


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_that_stops_and_returns_with_another_list(
    postgresql: PostgreSQL, url: str, cache: ConditionsCache, how: signal.Signals
) -> None:
    seen = cache.lookup(150)
    assert (seen.known.dead_list, seen.stale) == (A, False)
    with pytest.raises(UnknownRun, match="gap"):
        cache.lookup(250)
    postgresql.stop(how)
    for _ in range(5):
        answer = cache.lookup(150)
        assert (answer.known, answer.as_of, answer.stale) == (seen.known, seen.as_of, True)
        for unseen in (151, 250, 400):  # known there, in a gap, beyond: nobody can tell here
            with pytest.raises(ConditionsUnavailable, match=f"run {unseen} is not known here"):
                cache.lookup(unseen)
    assert cache.away
    postgresql.start()
    with writer(address_of(url)) as store:
        store.record(Tag.ONLINE, [Change(Runs(150, 160), B)], NOTE)
    back = until_fresh(cache, 150)
    assert back.known.dead_list == B
    assert (back.known.revision, back.known.head) == (2, 2)
    assert back.as_of > seen.as_of
    assert cache.lookup(151).known.dead_list == B
    with pytest.raises(RunAfterLastInterval):
        cache.lookup(400)


def test_a_server_that_hangs(postgresql: PostgreSQL, url: str) -> None:
    """Stopped processes keep their connections: only patience notices."""
    with ConditionsStore(address_of(url)) as store:
        cache = ConditionsCache(store, Tag.ONLINE, fresh=0, patience=0.3, retry=0.05)
        seen = until_fresh(cache, 150)
        postgresql.pause()
        try:
            for _ in range(20):
                answer = cache.lookup(150)
                assert (answer.known, answer.stale) == (seen.known, True)
            with pytest.raises(ConditionsUnavailable, match="run 151 is not known here"):
                cache.lookup(151)
        finally:
            postgresql.resume()
        assert until_fresh(cache, 150).known.dead_list == A
        assert cache.lookup(151).known.dead_list == A


def test_a_server_may_start_while_the_database_is_away(postgresql: PostgreSQL, url: str) -> None:
    postgresql.stop(signal.SIGINT)
    with ConditionsStore(address_of(url)) as store:
        cache = ConditionsCache(store, Tag.ONLINE, fresh=0, retry=0)
        with pytest.raises(ConditionsUnavailable, match="cannot be reached"):
            cache.lookup(150)
        postgresql.start()
        assert cache.lookup(150).known.dead_list == A
