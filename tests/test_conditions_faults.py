"""A real PostgreSQL that is slow, killed under load, out of connections, or has a new password."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from support_conditions import NOTE, address_of, writer
from support_databases import PASSWORD, PostgreSQL
from support_server import SETTINGS, Code, Events, GatedEngine, Running, refusal, request
from support_slow_link import slow_link
from xec.conditions.cache import ConditionsCache
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.schema import VERSION_TABLE
from xec.conditions.store import ConditionsStore
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.event import Event
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.app import Server
from xec_server.events.run_lists import RunLists

log = logging.getLogger(__name__)

A, B = DeadList.of((17, 18, 19)), DeadList.of((18, 300, 301))
FRESH = 1.0  # seconds


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    """A database that its reader, who is no superuser, may read."""
    url = postgresql.new_database()
    name = url.rpartition("/")[2]
    with writer(address_of(url)) as store:
        store.record(Tag.ONLINE, [Change(Runs(100, 199), A)], NOTE)
    role = f"reader_{name}"
    postgresql.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    postgresql.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", name)
    yield url
    if postgresql.process is not None and postgresql.process.poll() is not None:
        postgresql.start()


def as_reader(postgresql: PostgreSQL, url: str, port: int | None = None) -> str:
    name = url.rpartition("/")[2]
    place = f"127.0.0.1:{port or postgresql.port}"
    return f"postgresql://reader_{name}:{quote(PASSWORD, safe='')}@{place}/{name}"


@asynccontextmanager
async def serving(
    repository: Path, database: str, fresh: float = FRESH, patience: float = 5.0
) -> AsyncIterator[Running]:
    store = ConditionsStore(address_of(database))
    known = ConditionsCache(store, Tag.ONLINE, patience=patience, fresh=fresh, retry=0.05)
    engine = GatedEngine(OnnxEngine(repository, OnnxSettings(sessions=2)))
    server = Server(engine, None, SETTINGS, RunLists(store, known, Tag.ONLINE, patience))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            yield Running(server, engine, ReconstructionStub(channel), channel)
    finally:
        await server.stop()


@dataclass
class Load:
    """Callers that ask for run 150 all the time; each answer must be of one list, as it says."""

    stub: Any
    event: Event
    seen: list[tuple[str, str, bool]] = field(default_factory=list)
    slowest: float = 0.0
    stopped: bool = False

    async def caller(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopped:
            start = loop.time()
            answer = await self.stub.Reconstruct(request(self.event), timeout=30)
            self.slowest = max(self.slowest, loop.time() - start)
            origin = answer.provenance
            (dead,) = (one for one in (A, B) if one.list_id == origin.dead_list_id)
            marked = {n for n, valid in enumerate(self.event.npho_valid) if not valid}
            assert set(answer.recovered.channel) == marked | set(dead.channels)
            seen = (origin.dead_list_id, origin.dead_list_revision)
            self.seen.append((*seen, origin.dead_list_stale_since != ""))
            await asyncio.sleep(0.01)


@asynccontextmanager
async def loaded(service: Running, events: Events, callers: int = 4) -> AsyncIterator[Load]:
    load = Load(service.stub, replace(next(iter(events(1))), run=150))
    tasks = [asyncio.create_task(load.caller()) for _ in range(callers)]
    try:
        yield load
    finally:
        load.stopped = True
        await asyncio.gather(*tasks)


async def until(load: Load, condition: Any) -> None:
    """Wait until an answer is as wanted; a caller's error ends the test when the load ends."""
    start = len(load.seen)
    async with asyncio.timeout(60):
        while not any(condition(one) for one in load.seen[start:]):
            await asyncio.sleep(0.02)


async def slowest_while_slow(
    repository: Path, events: Events, postgresql: PostgreSQL, url: str
) -> tuple[float, float]:
    """Slowest call for a known run, and how long the database took for one that is not."""
    loop = asyncio.get_running_loop()
    with slow_link(postgresql.port) as link:
        database = as_reader(postgresql, url, link.port)
        async with serving(repository, database, fresh=4.0, patience=30) as service:
            async with loaded(service, events, 1) as load:
                await until(load, lambda one: one[0] == A.list_id)
                link.seconds = 0.08
                load.slowest = 0.0
                start = loop.time()
                other = request(replace(load.event, run=151))
                await service.stub.Reconstruct(other, timeout=60)
                took = loop.time() - start
                await asyncio.sleep(5)  # longer than an answer holds
            assert not any(stale for _, _, stale in load.seen)
            log.info("slowest %.2f s, a run that is not known %.2f s", load.slowest, took)
            return load.slowest, took


@pytest.mark.faults
async def test_a_slow_database_delays_no_call_for_a_run_in_demand(
    stub_repository: Path, events: Events, postgresql: PostgreSQL, url: str
) -> None:
    slowest, took = await slowest_while_slow(stub_repository, events, postgresql, url)
    assert slowest < took / 2


@pytest.mark.faults
async def test_the_control_without_asking_ahead_it_does(
    stub_repository: Path,
    events: Events,
    postgresql: PostgreSQL,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remembered = ConditionsCache.remembered

    def only_remembered(self: ConditionsCache, run: int) -> Any:
        fresh, self._fresh = self._fresh, 10 * self._fresh
        try:
            entry = self._memory.get(run)
            if entry is not None and self._clock() >= entry.asked + fresh:
                return None
            return remembered(self, run)
        finally:
            self._fresh = fresh

    monkeypatch.setattr(ConditionsCache, "remembered", only_remembered)
    slowest, took = await slowest_while_slow(stub_repository, events, postgresql, url)
    assert slowest > took / 2


async def test_killed_under_load_and_back_with_another_list(
    stub_repository: Path, events: Events, postgresql: PostgreSQL, url: str
) -> None:
    async with (
        serving(stub_repository, as_reader(postgresql, url), fresh=0.1) as service,
        loaded(service, events) as load,
    ):
        await until(load, lambda one: one == (A.list_id, "ONLINE@1", False))
        await asyncio.to_thread(postgresql.stop, signal.SIGKILL)
        await until(load, lambda one: one == (A.list_id, "ONLINE@1", True))
        postgresql.start()  # here: it ends with the thread that started it
        with writer(address_of(url)) as store:
            store.record(Tag.ONLINE, [Change(Runs(100, 199), B)], NOTE)
        await until(load, lambda one: one == (B.list_id, "ONLINE@2", False))
        turn = len(load.seen) + len(asyncio.all_tasks())  # those on their way may have A still
        await asyncio.sleep(0.5)
    assert {one[:2] for one in load.seen} == {(A.list_id, "ONLINE@1"), (B.list_id, "ONLINE@2")}
    assert {one[0] for one in load.seen[turn:]} == {B.list_id}


STATEMENTS = {
    "no connection left": "ALTER ROLE reader_{name} CONNECTION LIMIT 0",
    "another password": "ALTER ROLE reader_{name} PASSWORD 'another'",
    "no right": "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
}
BACK = {
    "no connection left": "ALTER ROLE reader_{name} CONNECTION LIMIT -1",
    "another password": f"ALTER ROLE reader_{{name}} PASSWORD '{PASSWORD}'",
    "no right": "GRANT CONNECT ON DATABASE {name} TO PUBLIC",
}


@pytest.mark.parametrize("what", list(STATEMENTS))
async def test_a_database_that_lets_nobody_in(
    stub_repository: Path, events: Events, postgresql: PostgreSQL, url: str, what: str
) -> None:
    name = url.rpartition("/")[2]
    kick = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader_{0}'"
    async with (
        serving(stub_repository, as_reader(postgresql, url), fresh=0.1) as service,
        loaded(service, events, 2) as load,
    ):
        await until(load, lambda one: one == (A.list_id, "ONLINE@1", False))
        postgresql.execute(STATEMENTS[what].format(name=name))
        postgresql.execute(kick.format(name))
        await until(load, lambda one: one == (A.list_id, "ONLINE@1", True))
        unknown = request(replace(load.event, run=151))
        call = service.stub.Reconstruct(unknown)
        text, _ = await refusal(call, Code.UNAVAILABLE, "CONDITIONS_AWAY")
        assert PASSWORD not in text
        postgresql.execute(BACK[what].format(name=name))
        await until(load, lambda one: one == (A.list_id, "ONLINE@1", False))


async def test_a_database_that_may_only_be_read_is_enough(
    stub_repository: Path, events: Events, postgresql: PostgreSQL, url: str
) -> None:
    name = url.rpartition("/")[2]
    postgresql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with serving(stub_repository, as_reader(postgresql, url)) as service:
        event = replace(next(iter(events(1))), run=150)
        answer = await service.stub.Reconstruct(request(event))
    assert answer.provenance.dead_list_id == A.list_id


async def test_a_schema_of_a_later_version(
    stub_repository: Path, events: Events, postgresql: PostgreSQL, url: str
) -> None:
    """It may mean something else by the same names: nothing is guessed."""
    name = url.rpartition("/")[2]
    event = replace(next(iter(events(1))), run=150)
    postgresql.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'", name)
    async with serving(stub_repository, as_reader(postgresql, url)) as service:
        call = service.stub.Reconstruct(request(event))
        await refusal(call, Code.FAILED_PRECONDITION, "CONDITIONS_UNUSABLE")
        assert service.engine.rows == 0
