"""A real server with a real engine over a real socket: answers, refusals, provenance."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from xec_server.app import Server
from xec_server.batcher import BatchPolicy
from xec_server.settings import Address, ServerSettings

from xec.assembly import assemble
from xec.conditions.dead_list import DeadList
from xec.detector.channels import N_CHANNELS
from xec.engines.base import tensors_of
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import EngineError
from xec.event import Event, EventBatch
from xec.lineage import Provenance
from xec.wire import codec
from xec.wire.limits import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub

Code = grpc.StatusCode
Events = Callable[..., EventBatch]
DEAD = DeadList.of([5, 44, 4100, 4759])
NOTHING_DEAD = codec.dead_list_of_channels(np.zeros(N_CHANNELS, dtype=bool))
SETTINGS = ServerSettings(
    address=Address(port=0), grace=20, batching=BatchPolicy(size=4, queue=300, workers=2)
)


class GatedEngine:
    """The real engine, whose calls count, may be held back, or fail."""

    def __init__(self, inner: OnnxEngine) -> None:
        self.inner = inner
        self.model = inner.model
        self.rows = 0
        self.started = threading.Semaphore(0)
        self.passes = threading.Semaphore(10**9)
        self.answer: Callable[[dict[str, np.ndarray]], None] = lambda outputs: None

    def hold(self) -> None:
        self.passes = threading.Semaphore(0)

    def infer(self, inputs: Any) -> dict[str, np.ndarray]:
        self.rows += len(inputs["npho"])
        self.started.release()
        assert self.passes.acquire(timeout=30)
        outputs = self.inner.infer(inputs)
        self.answer(outputs)
        return outputs

    def close(self) -> None:
        self.inner.close()


@dataclass
class Running:
    server: Server
    engine: GatedEngine
    stub: Any
    channel: grpc.aio.Channel


@asynccontextmanager
async def running(
    repository: Path, own: DeadList | None = DEAD, settings: ServerSettings = SETTINGS
) -> AsyncIterator[Running]:
    engine = GatedEngine(OnnxEngine(repository, OnnxSettings(sessions=2)))
    server = Server(engine, own, settings)
    await server.start()
    options = [("grpc.max_receive_message_length", MAX_RESPONSE_BYTES)]
    try:
        async with grpc.aio.insecure_channel(str(server.address), options) as channel:
            yield Running(server, engine, ReconstructionStub(channel), channel)
    finally:
        engine.passes.release(10**6)
        await server.stop()


@pytest.fixture
async def service(stub_repository: Path) -> AsyncIterator[Running]:
    async with running(stub_repository) as service:
        yield service


def request(event: Event, **fields: Any) -> pb.ReconstructRequest:
    return pb.ReconstructRequest(event=codec.event_to_proto(event), **fields)


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The rich details by type name, after checking that they fit into the metadata."""
    (packed,) = [v for k, v in error.trailing_metadata() if k == "grpc-status-details-bin"]
    assert len(packed) < 8 * 1024
    sync_error = type("Call", (), {"code": error.code, "details": error.details})()
    sync_error.trailing_metadata = lambda: [("grpc-status-details-bin", packed)]
    found = {}
    for detail in rpc_status.from_call(sync_error).details:
        kind = getattr(error_details_pb2, detail.type_url.rpartition(".")[2])
        found[kind.DESCRIPTOR.name] = kind.FromString(detail.value)
    return found


async def refusal(call: Any, code: grpc.StatusCode, reason: str) -> tuple[str, dict[str, Any]]:
    """The message and details of a call that must be refused in exactly this way."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == code
    found = details(caught.value)
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == (reason, "xec.v1")
    return caught.value.details(), found


async def still_serves(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    assert (await service.stub.Reconstruct(request(event))).event == event.event


def violated(found: dict[str, Any]) -> list[str]:
    return [violation.field for violation in found["BadRequest"].field_violations]


# --- answers ---------------------------------------------------------------------------------


def same(wire: pb.ReconstructResponse, local: Any) -> None:
    """The answer of the server equals the one computed here, bit for bit."""
    remote = codec.reconstruction_from_proto(wire)
    for name in ("run", "event", "flags", "provenance"):
        assert getattr(remote, name) == getattr(local, name), name
    for group in ("energy", "gamma_time", "uvw", "angle", "recovered"):
        mine, theirs = getattr(local, group), getattr(remote, group)
        for name in mine.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(theirs, name), getattr(mine, name))


def local_answers(service: Running, batch: EventBatch, dead: DeadList) -> list[Any]:
    model = service.engine.model
    where = Provenance(model.name, model.version, model.sha256, model.geometry_hash, dead.list_id)
    batch = batch.with_dead(dead.mask)
    rows = [batch[row : row + 1] for row in range(len(batch))]
    return [
        assemble(row, service.engine.inner.infer(tensors_of(row)), where, model.interval_scale)[0]
        for row in rows
    ]


async def test_the_answer_is_the_engines(service: Running, events: Events) -> None:
    batch = events(3)
    for event, expected in zip(batch, local_answers(service, batch, DEAD), strict=True):
        answer = await service.stub.Reconstruct(request(event))
        same(answer, expected)
        assert set(DEAD.channels) <= set(answer.recovered.channel)
        assert answer.timings.batch_size == 1
        assert answer.timings.compute_seconds > 0


async def test_the_answer_follows_from_the_event(
    service: Running, events: Events, answers: Any
) -> None:
    """Against NumPy, so that server and engine cannot agree on something wrong."""
    batch = events(1)
    answer = await service.stub.Reconstruct(request(next(iter(batch)), dead_list=NOTHING_DEAD))
    expected = answers(batch)
    dead = np.flatnonzero(~batch.npho_valid[0])
    np.testing.assert_array_equal(answer.recovered.channel, dead)
    np.testing.assert_allclose(answer.recovered.npho, expected["npho_mean"][0, dead], rtol=1e-4)
    np.testing.assert_allclose(answer.uvw.mean, expected["uvw"][0], rtol=1e-3, atol=1e-4)
    half = 1.5 * expected["energy_sigma"][0]
    np.testing.assert_allclose(answer.energy.high, expected["energy"][0] + half, rtol=1e-4)
    np.testing.assert_allclose(answer.energy.low, expected["energy"][0] - half, rtol=1e-4)


async def test_a_full_batch_is_answered_in_order(service: Running, events: Events) -> None:
    batch = events(256)
    messages = [codec.event_to_proto(event) for event in batch]
    answer = await service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages))
    assert [one.event for one in answer.responses] == batch.event.tolist()
    expected = local_answers(service, batch, DEAD)
    for one, local in zip(answer.responses, expected, strict=True):
        np.testing.assert_allclose(one.energy.mean, local.energy.mean, rtol=1e-5)
    assert len({one.energy.mean[0] for one in answer.responses}) == 256
    assert max(one.timings.batch_size for one in answer.responses) == 4


async def test_concurrent_calls_get_their_own_answers(
    service: Running, events: Events, answers: Any
) -> None:
    batch = events(120)
    calls = [service.stub.Reconstruct(request(e, dead_list=NOTHING_DEAD)) for e in batch]
    got = [await call for call in calls]
    assert [one.event for one in got] == batch.event.tolist()
    expected = answers(batch)["energy"][:, 0]
    np.testing.assert_allclose([one.energy.mean[0] for one in got], expected, rtol=1e-4)


async def test_an_empty_batch_has_an_empty_answer(service: Running) -> None:
    answer = await service.stub.ReconstructBatch(pb.ReconstructBatchRequest())
    assert list(answer.responses) == []


async def test_the_model_introduces_itself(service: Running) -> None:
    answer = await service.stub.GetModel(pb.GetModelRequest())
    assert answer.provenance.model_sha256 == service.engine.model.sha256
    assert answer.provenance.dead_list_id == DEAD.list_id
    assert (answer.contract_version, answer.dead_channels) == ("1", 4)
    assert answer.metadata["preset"] == "stub"


async def test_the_served_version_may_be_named(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    answer = await service.stub.Reconstruct(request(event, model_version="stub-1"))
    assert answer.provenance.model_version == "stub-1"
    text, _ = await refusal(
        service.stub.Reconstruct(request(event, model_version="stub-2")),
        Code.NOT_FOUND,
        "UNKNOWN_MODEL_VERSION",
    )
    assert "'stub-2' is not served; 'stub-1' is" in text


# --- dead lists ------------------------------------------------------------------------------


async def test_a_list_has_the_same_id_whichever_way_it_comes(
    service: Running, events: Events
) -> None:
    event = next(iter(events(1)))
    ways = [
        None,
        pb.DeadList(resolve=pb.DeadList.Resolve()),
        pb.DeadList(list_id=DEAD.list_id),
        codec.dead_list_of_channels(DEAD.mask),
    ]
    answers = [await service.stub.Reconstruct(request(event, dead_list=way)) for way in ways]
    for answer in answers:
        assert answer.provenance == answers[0].provenance
        assert answer.recovered == answers[0].recovered
    other = await service.stub.Reconstruct(request(event, dead_list=NOTHING_DEAD))
    assert other.provenance.dead_list_id not in ("", DEAD.list_id)
    assert other.recovered != answers[0].recovered


async def test_without_a_list_nothing_is_assumed_alive(
    stub_repository: Path, events: Events
) -> None:
    event = next(iter(events(1)))
    async with running(stub_repository, own=None) as service:
        text, _ = await refusal(
            service.stub.Reconstruct(request(event)), Code.FAILED_PRECONDITION, "NO_DEAD_LIST"
        )
        assert "--dead-list" in text
        await service.stub.Reconstruct(request(event, dead_list=NOTHING_DEAD))
        model = await service.stub.GetModel(pb.GetModelRequest())
        assert model.provenance.dead_list_id == ""


async def test_an_unknown_list_is_not_found(service: Running, events: Events) -> None:
    unknown = pb.DeadList(list_id="run-7")
    call = service.stub.Reconstruct(request(next(iter(events(1))), dead_list=unknown))
    text, _ = await refusal(call, Code.NOT_FOUND, "UNKNOWN_DEAD_LIST")
    assert "'run-7'" in text


async def test_unknown_channels_are_listed(service: Running, events: Events) -> None:
    channels = pb.DeadList.Channels(id=[1, 4760, 2, 2**32 - 1])
    call = service.stub.Reconstruct(
        request(next(iter(events(1))), dead_list=pb.DeadList(channels=channels))
    )
    _, found = await refusal(call, Code.INVALID_ARGUMENT, "INVALID_DEAD_LIST")
    assert violated(found) == ["channels.id[1]", "channels.id[3]"]
    await still_serves(service, events)


async def test_everything_dead_is_a_failed_precondition(
    service: Running, events: Events, stub_repository: Path
) -> None:
    everything = codec.dead_list_of_channels(np.ones(N_CHANNELS, dtype=bool))
    event = next(iter(events(1)))
    await refusal(
        service.stub.Reconstruct(request(event, dead_list=everything)),
        Code.FAILED_PRECONDITION,
        "ALL_SENSORS_DEAD",
    )
    async with running(stub_repository, own=DeadList.of(range(N_CHANNELS))) as other:
        await refusal(
            other.stub.Reconstruct(request(event)), Code.FAILED_PRECONDITION, "ALL_SENSORS_DEAD"
        )


# --- bad events ------------------------------------------------------------------------------


def first_live(event: Event, mask: str) -> int:
    live = getattr(event, mask).copy()
    live[list(DEAD.channels)] = False
    return int(np.flatnonzero(live)[0])


@pytest.mark.parametrize("name", ["npho", "time"])
@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e10, "marker"), (-1e10, "marker")],
)
async def test_no_number_in_a_live_sensor(
    name: str, value: float, words: str, service: Running, events: Events
) -> None:
    event = next(iter(events(1)))
    channel = first_live(event, f"{name}_valid")
    getattr(event, name)[channel] = value
    _, found = await refusal(
        service.stub.Reconstruct(request(event)), Code.INVALID_ARGUMENT, "INVALID_EVENT"
    )
    assert violated(found) == [f"event.{name}[{channel}]"]
    description = found["BadRequest"].field_violations[0].description
    assert words in description
    assert "clear its validity bit" in description
    assert service.engine.rows == 0
    await still_serves(service, events)


async def test_no_number_in_a_dead_sensor_is_ignored(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    clean = await service.stub.Reconstruct(request(event))
    event.npho[~event.npho_valid] = np.nan
    event.time[~event.time_valid] = np.inf
    event.npho[DEAD.channels[0]] = 1e10  # dead by the list only
    event.npho_valid[DEAD.channels[0]] = True
    dirty = await service.stub.Reconstruct(request(event))
    assert dirty.recovered == clean.recovered
    assert dirty.energy == clean.energy


async def test_many_violations_are_counted_and_the_first_listed(
    service: Running, events: Events
) -> None:
    batch = events(40)
    batch.npho[3] = np.nan
    batch.time[5, :] = np.inf
    expected = sum(
        int((mask & ~DEAD.mask).sum()) for mask in (batch.npho_valid[3], batch.time_valid[5])
    )
    messages = [codec.event_to_proto(event) for event in batch]
    messages[0].npho = b"short"
    text, found = await refusal(
        service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages)),
        Code.INVALID_ARGUMENT,
        "INVALID_EVENT",
    )
    assert f"16 of {expected + 1} violations" in text
    fields = violated(found)
    assert len(fields) == 16
    assert fields[0] == "events[0].npho"
    assert all(field.startswith("events[3].npho[") for field in fields[1:])
    assert service.engine.rows == 0


@pytest.mark.parametrize("field", ["npho", "time", "npho_valid", "time_valid"])
async def test_wrong_lengths(field: str, service: Running, events: Events) -> None:
    message = request(next(iter(events(1))))
    setattr(message.event, field, getattr(message.event, field)[:-4])
    _, found = await refusal(
        service.stub.Reconstruct(message), Code.INVALID_ARGUMENT, "INVALID_EVENT"
    )
    assert violated(found) == [f"event.{field}"]
    await still_serves(service, events)


async def test_a_missing_event(service: Running) -> None:
    call = service.stub.Reconstruct(pb.ReconstructRequest())
    _, found = await refusal(call, Code.INVALID_ARGUMENT, "INVALID_EVENT")
    assert violated(found) == ["event.npho", "event.time"]


async def test_an_event_without_valid_sensors(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    blind = replace(event, npho_valid=np.zeros(N_CHANNELS, dtype=bool))
    _, found = await refusal(
        service.stub.Reconstruct(request(blind)), Code.INVALID_ARGUMENT, "INVALID_EVENT"
    )
    assert violated(found) == ["event.npho_valid"]
    only_dead = replace(event, npho_valid=DEAD.mask)
    await refusal(
        service.stub.Reconstruct(request(only_dead)), Code.INVALID_ARGUMENT, "INVALID_EVENT"
    )


async def test_too_many_events(service: Running, events: Events) -> None:
    message = codec.event_to_proto(next(iter(events(1))))
    call = service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=[message] * 257))
    text, _ = await refusal(call, Code.INVALID_ARGUMENT, "TOO_MANY_EVENTS")
    assert "at most 256" in text


async def test_bytes_that_are_no_request(service: Running, events: Events) -> None:
    call = service.channel.unary_unary("/xec.v1.Reconstruction/Reconstruct")
    await refusal(call(b"\xff\xff\xff"), Code.INVALID_ARGUMENT, "UNPARSEABLE_REQUEST")
    await still_serves(service, events)


async def test_a_message_of_20_mb_is_refused(service: Running, events: Events) -> None:
    call = service.channel.unary_unary("/xec.v1.Reconstruction/Reconstruct")
    content = bytes(20_000_000)
    assert len(content) > MAX_REQUEST_BYTES
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(content)
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    await still_serves(service, events)


async def test_an_unknown_method_is_unimplemented(service: Running) -> None:
    call = service.channel.unary_unary("/xec.v1.Reconstruction/Destroy")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() == Code.UNIMPLEMENTED


# --- load, deadlines, failures -----------------------------------------------------------------


async def held(service: Running, events: Events, count: int = 2) -> list[Any]:
    """Calls that keep both workers busy until `passes` are released."""
    service.engine.hold()
    calls = []
    for event in events(count, seed=99):
        calls.append(asyncio.ensure_future(service.stub.Reconstruct(request(event))))
        assert await asyncio.to_thread(service.engine.started.acquire, timeout=30)
    return calls


async def waiting(service: Running, count: int) -> None:
    while service.server.batcher.waiting < count:
        await asyncio.sleep(0.001)


async def test_overload_says_when_to_come_back(service: Running, events: Events) -> None:
    busy = await held(service, events)
    messages = [codec.event_to_proto(event) for event in events(200)]
    batch = pb.ReconstructBatchRequest(events=messages)
    accepted = asyncio.ensure_future(service.stub.ReconstructBatch(batch))
    await waiting(service, 200)
    _, found = await refusal(
        service.stub.ReconstructBatch(batch), Code.RESOURCE_EXHAUSTED, "QUEUE_FULL"
    )
    delay = found["RetryInfo"].retry_delay.ToTimedelta().total_seconds()
    assert 0.05 <= delay <= 5
    service.engine.passes.release(1000)
    assert len((await accepted).responses) == 200
    await asyncio.gather(*busy)
    await still_serves(service, events)


async def test_an_event_past_its_deadline_never_reaches_the_engine(
    service: Running, events: Events
) -> None:
    busy = await held(service, events)
    rows = service.engine.rows
    call = service.stub.Reconstruct(request(next(iter(events(1)))), timeout=0.15)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == Code.DEADLINE_EXCEEDED
    service.engine.passes.release(1000)
    await asyncio.gather(*busy)
    await still_serves(service, events)
    assert service.engine.rows == rows + 1  # the one of `still_serves`
    counts = service.server.batcher.counts
    assert counts.expired + counts.abandoned == 1


async def test_a_cancelled_call_never_reaches_the_engine(service: Running, events: Events) -> None:
    busy = await held(service, events)
    rows = service.engine.rows
    call = service.stub.Reconstruct(request(next(iter(events(1)))))
    task = asyncio.ensure_future(call)
    await waiting(service, 1)
    call.cancel()
    await asyncio.wait([task])
    while not service.server.batcher._queue[0].future.cancelled():
        await asyncio.sleep(0.001)  # the cancellation travels to the server
    service.engine.passes.release(1000)
    await asyncio.gather(*busy)
    await still_serves(service, events)
    assert service.engine.rows == rows + 1
    assert service.server.batcher.counts.abandoned == 1


async def test_a_failing_engine_is_unavailable(
    service: Running, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outputs: dict[str, np.ndarray]) -> None:
        raise EngineError("out of memory at 0xdeadbeef")

    service.engine.answer = fail
    text, _ = await refusal(
        service.stub.Reconstruct(request(next(iter(events(1))))),
        Code.UNAVAILABLE,
        "ENGINE_FAILED",
    )
    assert "0xdeadbeef" not in text
    assert "0xdeadbeef" in caplog.text
    service.engine.answer = lambda outputs: None
    await still_serves(service, events)


async def test_a_defect_is_internal_and_keeps_its_traceback_to_itself(
    service: Running, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    service.engine.answer = lambda outputs: outputs.pop("energy") and None
    text, _ = await refusal(
        service.stub.Reconstruct(request(next(iter(events(1))))), Code.INTERNAL, "DEFECT"
    )
    assert text == "The server failed on this call: see its log."
    assert "KeyError: 'energy'" in caplog.text
    service.engine.answer = lambda outputs: None
    await still_serves(service, events)


async def test_an_answer_that_is_not_finite_is_never_sent(
    service: Running, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil_event_1(outputs: dict[str, np.ndarray]) -> None:
        outputs["uvw"][1, 2] = np.nan

    service.engine.answer = spoil_event_1
    messages = [codec.event_to_proto(event) for event in events(2)]
    await refusal(
        service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages)),
        Code.INTERNAL,
        "DEFECT",
    )
    assert "event 1 of run 1000 is not finite" in caplog.text
