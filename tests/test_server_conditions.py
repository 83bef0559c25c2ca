"""Dead lists by run in the server, from SQLite and from a real PostgreSQL that stops meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from support_conditions import NOTE, address_of, writer
from support_databases import PASSWORD, PostgreSQL
from support_server import (
    NOTHING_DEAD,
    SETTINGS,
    Code,
    Events,
    GatedEngine,
    Running,
    refusal,
    request,
    running,
)
from support_stream import opened, until
from xec.conditions.cache import ConditionsCache
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.store import ConditionsStore
from xec.detector.channels import N_CHANNELS
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import ConditionsUnavailable
from xec.event import Event, EventBatch, Reconstruction
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_client import AsyncClient
from xec_client.errors import NotFound
from xec_client.places import Remote, Work
from xec_client.reprocess.job import Job
from xec_server.app import Server
from xec_server.events.run_lists import RunLists

A, B, OLD = DeadList.of((17, 18)), DeadList.of((300,)), DeadList.of((5, 6))
NONE, ALL = DeadList.of(()), DeadList.of(range(N_CHANNELS))


def record(address: Any) -> None:
    with writer(address) as store:
        store.record(Tag.ONLINE, [Change(Runs(100, 199), OLD)], NOTE)
        store.record(
            Tag.ONLINE,
            [
                Change(Runs(100, 199), A),
                Change(Runs(300, 399), B),
                Change(Runs(400, 400), NONE),
                Change(Runs(401, 401), ALL),
            ],
            NOTE,
        )
        store.record(Tag.OFFLINE, [Change(Runs(250, 500), B)], NOTE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    record(address_of(tmp_path / "conditions.sqlite"))
    return tmp_path / "conditions.sqlite"


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    url = postgresql.new_database()
    record(address_of(url))
    yield url
    if postgresql.process is not None and postgresql.process.poll() is not None:
        postgresql.start()


@asynccontextmanager
async def serving(
    repository: Path, database: str | Path, patience: float = 2.0, **cache: float
) -> AsyncIterator[Running]:
    store = ConditionsStore(address_of(database))
    known = ConditionsCache(store, Tag.ONLINE, patience=patience, **cache)  # type: ignore[arg-type]
    engine = GatedEngine(OnnxEngine(repository, OnnxSettings(sessions=2)))
    runs = RunLists(store, known, Tag.ONLINE, patience)
    server = Server(engine, None, SETTINGS, runs)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            yield Running(server, engine, ReconstructionStub(channel), channel)
    finally:
        await server.stop()


def of_run(events: Events, run: int, seed: int = 0) -> Event:
    return replace(next(iter(events(1, seed=seed))), run=run)


async def asked(service: Running, events: Events, run: int, **fields: Any) -> Any:
    return await service.stub.Reconstruct(request(of_run(events, run), **fields), timeout=30)


def filled(answer: pb.ReconstructResponse, event: Event) -> set[int]:
    """What was recovered although the event does not mark it."""
    marked = {channel for channel in range(N_CHANNELS) if not event.npho_valid[channel]}
    return set(answer.recovered.channel) - marked


async def test_a_run_gets_its_own_list(stub_repository: Path, events: Events, file: Path) -> None:
    async with serving(stub_repository, file) as service:
        for run, dead in ((150, A), (350, B), (400, NONE)):
            answer = await asked(service, events, run)
            assert filled(answer, of_run(events, run)) <= set(dead.channels)
            assert set(dead.channels) <= set(answer.recovered.channel)
            origin = answer.provenance
            assert (origin.dead_list_id, origin.dead_list_revision) == (dead.list_id, "ONLINE@2")
            assert origin.dead_list_stale_since == ""


async def test_a_batch_of_several_runs(stub_repository: Path, events: Events, file: Path) -> None:
    runs = [150, 350, 150, 400]
    messages = [codec.event_to_proto(of_run(events, run)) for run in runs]
    async with serving(stub_repository, file) as service:
        batch = pb.ReconstructBatchRequest(events=messages)
        response = await service.stub.ReconstructBatch(batch)
        found = [answer.provenance.dead_list_id for answer in response.responses]
        assert found == [A.list_id, B.list_id, A.list_id, NONE.list_id]
        messages[1].run = 250
        await refusal(
            service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages)),
            Code.NOT_FOUND,
            "UNKNOWN_RUN",
        )


REFUSED = [
    (250, Code.NOT_FOUND, "UNKNOWN_RUN"),
    (0, Code.NOT_FOUND, "UNKNOWN_RUN"),
    (-1, Code.NOT_FOUND, "UNKNOWN_RUN"),
    (402, Code.OUT_OF_RANGE, "RUN_AFTER_LAST_INTERVAL"),
    (401, Code.FAILED_PRECONDITION, "ALL_SENSORS_DEAD"),
]


async def test_an_unknown_run_is_refused_and_never_computed(
    stub_repository: Path, events: Events, file: Path
) -> None:
    async with serving(stub_repository, file) as service:
        for run, code, reason in REFUSED:
            for _ in range(2):  # asked for the first time, and remembered
                await refusal(asked(service, events, run), code, reason)
        assert service.engine.rows == 0
        await asked(service, events, 400)  # the control: a list of no channel is a list
        assert service.engine.rows == 1


async def test_streams_tell_it_in_band(stub_repository: Path, events: Events, file: Path) -> None:
    async with serving(stub_repository, file) as service:
        stream = await opened(service.stub)
        runs = [150, 250, 402, 401, 350]
        await stream.send(*((n, of_run(events, run)) for n, run in enumerate(runs)))
        found = {answer.id: answer for answer in await stream.end()}
        lists = [found[n].response.provenance.dead_list_id for n in (0, 4)]
        assert lists == [A.list_id, B.list_id]
        assert [found[n].error.reason for n in (1, 2, 3)] == [
            "UNKNOWN_RUN",
            "RUN_AFTER_LAST_INTERVAL",
            "ALL_SENSORS_DEAD",
        ]


async def test_a_named_list_is_served_from_the_store(
    stub_repository: Path, events: Events, file: Path
) -> None:
    async with serving(stub_repository, file) as service:
        for dead in (OLD, B):  # in force or not, whatever the run
            named = pb.DeadList(list_id=dead.list_id)
            answer = await asked(service, events, 250, dead_list=named)
            assert answer.provenance.dead_list_id == dead.list_id
            assert set(dead.channels) <= set(answer.recovered.channel)
        for wrong in ("sha256:" + 16 * "0", "no id", "x" * 1000):
            call = asked(service, events, 150, dead_list=pb.DeadList(list_id=wrong))
            await refusal(call, Code.NOT_FOUND, "UNKNOWN_DEAD_LIST")
        carried = await asked(service, events, 250, dead_list=NOTHING_DEAD)
        assert carried.provenance.dead_list_revision == ""


async def test_the_client_sees_where_the_list_is_from(
    stub_repository: Path, events: Events, file: Path
) -> None:
    async with (
        serving(stub_repository, file) as service,
        AsyncClient(str(service.server.address)) as client,
    ):
        answer = await client.reconstruct(of_run(events, 150))
        assert answer.provenance.dead_list_revision == "ONLINE@2"


async def test_files_by_a_server_get_the_lists_of_their_runs(
    stub_repository: Path, events: Events, file: Path
) -> None:
    """What `xec reconstruct` and `xec reprocess` send for a file that tells no list."""

    def reconstructed(address: str, run: int) -> Reconstruction:
        with Remote(address, timeout=30).open() as backend:
            batch = EventBatch.stack([of_run(events, run)])
            (answer,) = backend.reconstruct(Work(batch, None))
            return answer

    async with serving(stub_repository, file) as service:
        address = str(service.server.address)
        answer = await asyncio.to_thread(reconstructed, address, 150)
        assert answer.provenance.dead_list_revision == "ONLINE@2"
        assert answer.provenance.dead_list_id == A.list_id
        with pytest.raises(NotFound, match="run 250"):
            await asyncio.to_thread(reconstructed, address, 250)


async def test_lists_by_run_of_a_server_are_another_lineage_than_none(
    stub_repository: Path, file: Path, tmp_path: Path
) -> None:
    def list_of(address: str) -> str:
        place = Remote(address, timeout=30)
        return Job((), tmp_path, place, None, ".parquet").recipe().dead_list_id

    async with serving(stub_repository, file) as service:
        found = await asyncio.to_thread(list_of, str(service.server.address))
    async with running(stub_repository, None) as service:
        other = await asyncio.to_thread(list_of, str(service.server.address))
    assert (found, other) == ("by run, of the server", "")


@pytest.mark.parametrize(("own", "told"), [(None, NONE), (A, A)])
async def test_files_by_a_server_without_lists_tell_themselves(
    stub_repository: Path, events: Events, own: DeadList | None, told: DeadList
) -> None:
    def reconstructed(address: str) -> Reconstruction:
        with Remote(address, timeout=30).open() as backend:
            batch = EventBatch.stack([of_run(events, 1)])
            (answer,) = backend.reconstruct(Work(batch, None))
            return answer

    async with running(stub_repository, own) as service:
        answer = await asyncio.to_thread(reconstructed, str(service.server.address))
        assert answer.provenance.dead_list_id == told.list_id


async def test_a_database_that_holds_no_conditions(
    stub_repository: Path, events: Events, tmp_path: Path
) -> None:
    (tmp_path / "empty.sqlite").touch()
    async with serving(stub_repository, tmp_path / "empty.sqlite") as service:
        await refusal(asked(service, events, 150), Code.FAILED_PRECONDITION, "CONDITIONS_UNUSABLE")


# --- a real PostgreSQL ---------------------------------------------------------------------------


async def test_a_database_that_stops_and_comes_back_with_another_list(
    stub_repository: Path, events: Events, postgresql: PostgreSQL, url: str
) -> None:
    async with serving(stub_repository, url, fresh=0, retry=0.05) as service:
        first = await asked(service, events, 150)
        assert first.provenance.dead_list_id == A.list_id
        await asked(service, events, 150, dead_list=pb.DeadList(list_id=OLD.list_id))
        await asyncio.to_thread(postgresql.stop, signal.SIGINT)
        since = set()
        for _ in range(5):
            answer = await asked(service, events, 150)
            assert set(A.channels) <= set(answer.recovered.channel)
            assert answer.provenance.dead_list_revision == "ONLINE@2"
            since.add(answer.provenance.dead_list_stale_since)
        assert len(since) == 1
        assert "" not in since
        rows = service.engine.rows
        for run in (151, 250, 402):  # known there, in a gap, beyond: nobody can tell here
            text, _ = await refusal(
                asked(service, events, run), Code.UNAVAILABLE, "CONDITIONS_AWAY"
            )
            assert PASSWORD not in text
        unknown = pb.DeadList(list_id=B.list_id)
        await refusal(
            asked(service, events, 150, dead_list=unknown), Code.UNAVAILABLE, "CONDITIONS_AWAY"
        )
        assert service.engine.rows == rows
        await asked(service, events, 150, dead_list=pb.DeadList(list_id=OLD.list_id))
        postgresql.start()  # here: it ends with the thread that started it
        with writer(address_of(url)) as store:
            store.record(Tag.ONLINE, [Change(Runs(150, 160), B)], NOTE)
        end = time.monotonic() + 60
        while True:
            answer = await asked(service, events, 150)
            if not answer.provenance.dead_list_stale_since:
                break
            assert time.monotonic() < end
        assert answer.provenance.dead_list_id == B.list_id
        assert answer.provenance.dead_list_revision == "ONLINE@4"
        await refusal(asked(service, events, 250), Code.NOT_FOUND, "UNKNOWN_RUN")


async def order_while_it_hangs(
    repository: Path, events: Events, postgresql: PostgreSQL, url: str
) -> list[str]:
    """What is answered first: an unknown run of a database that hangs, or what needs none."""
    order = []

    async def note(name: str, call: Any) -> None:
        await asyncio.gather(call, return_exceptions=True)
        order.append(name)

    async with serving(repository, url, patience=1.0) as service:
        await asked(service, events, 150)
        postgresql.pause()
        try:
            hanging = [
                asyncio.ensure_future(note("hangs", asked(service, events, run)))
                for run in range(151, 171)
            ]
            named = pb.DeadList(list_id=B.list_id)
            call = asked(service, events, 150, dead_list=named)
            hanging.append(asyncio.ensure_future(note("hangs", call)))
            await asyncio.sleep(0.2)  # they are in the server by now
            await note("model", service.stub.GetModel(pb.GetModelRequest()))
            await note("carried", asked(service, events, 151, dead_list=NOTHING_DEAD))
            await note("known", asked(service, events, 150))
            await asyncio.gather(*hanging)
        finally:
            postgresql.resume()
    return order


async def test_a_database_that_hangs_holds_nobody_else_up(
    stub_repository: Path, events: Events, postgresql: PostgreSQL, url: str
) -> None:
    order = await order_while_it_hangs(stub_repository, events, postgresql, url)
    assert order == ["model", "carried", "known", *["hangs"] * 21]


async def test_the_control_a_question_on_the_event_loop_does(
    stub_repository: Path,
    events: Events,
    postgresql: PostgreSQL,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blocking(self: RunLists, run: int) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._cache.lookup(run))
        except ConditionsUnavailable as error:
            future.set_exception(error)
        return future

    monkeypatch.setattr(RunLists, "_look_up", blocking)
    order = await order_while_it_hangs(stub_repository, events, postgresql, url)
    assert order[0] == "hangs"


async def test_who_asks_for_the_same_run_asks_once(
    stub_repository: Path, events: Events, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[int] = []
    lookup = ConditionsCache.lookup

    def counted(self: ConditionsCache, run: int) -> Any:
        questions.append(run)
        time.sleep(0.05)
        return lookup(self, run)

    monkeypatch.setattr(ConditionsCache, "lookup", counted)
    async with serving(stub_repository, file) as service:
        calls = [asyncio.ensure_future(asked(service, events, 150)) for _ in range(8)]
        await until(lambda: len(questions) == 1)
        calls[0].cancel()  # the one who asked first: the others still get their answer
        await asyncio.gather(*calls[1:])
        assert questions == [150]
