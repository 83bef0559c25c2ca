"""What is past its deadline never reaches the engine: by the engine's own count, of every method.

The engine is held back and the queue filled, then the deadlines pass, then it is let go.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from support_server import Code, Events, Running, request
from support_stream import held_back, opened, until
from test_gateway_forwarder import Gate
from test_gateway_forwarder import make as make_forwarder
from xec.engines.priority import Priority
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.queueing.outcomes import DeadlinePassedError
from xec_server.queueing.pace import Pace
from xec_server.queueing.room import Room

LATE = 40  # events that come with a deadline, of each method
SECONDS = 0.4


@asynccontextmanager
async def saturated(
    repository: Path, events: Events
) -> AsyncIterator[tuple[Running, asyncio.Future[Any]]]:
    """A server with one event at the engine, and a patient batch of 20 that waits."""
    async with held_back(repository) as (service, _):
        messages = [codec.event_to_proto(event) for event in events(21)]
        batch = pb.ReconstructBatchRequest(events=messages, lane=pb.LANE_ONLINE)
        patient = asyncio.ensure_future(service.stub.ReconstructBatch(batch))
        await until(lambda: service.server.batcher.waiting == 20)
        yield service, patient


async def late_singles(service: Running, events: Events) -> list[str]:
    calls = [service.stub.Reconstruct(request(e), timeout=SECONDS) for e in events(LATE)]
    return [(await call.code()).name for call in calls]


async def late_batch(service: Running, events: Events) -> list[str]:
    messages = [codec.event_to_proto(event) for event in events(LATE)]
    batch = pb.ReconstructBatchRequest(events=messages)
    return [(await service.stub.ReconstructBatch(batch, timeout=SECONDS).code()).name]


async def late_stream(service: Running, events: Events) -> list[str]:
    """In-band: the stream itself has no deadline. They are told once the engine goes on."""
    stream = await opened(service.stub)
    await stream.send(*enumerate(events(LATE)), timeout=SECONDS)
    await until(lambda: service.server.batcher.waiting == 20 + LATE)
    await asyncio.sleep(SECONDS)
    service.engine.passes.release(10**6)
    return [str(answer.error.reason) for answer in await stream.end()]


METHODS = {"unary": late_singles, "batch": late_batch, "stream": late_stream}


async def computed(repository: Path, events: Events, method: str) -> int:
    """How many of the late events the engine saw."""
    async with saturated(repository, events) as (service, patient):
        outcomes = await METHODS[method](service, events)
        service.engine.passes.release(10**6)
        assert len((await patient).responses) == 21
        await until(lambda: service.server.batcher.waiting == 0)
        counts = service.server.batcher.counts
        late = service.engine.rows - 21
        if not late:
            assert set(outcomes) <= {"DEADLINE_EXCEEDED", "DEADLINE_PASSED"}
            assert counts.expired + counts.abandoned == LATE
        return late


@pytest.mark.parametrize("method", METHODS)
async def test_none_of_the_late_ones_is_computed(
    stub_repository: Path, events: Events, method: str
) -> None:
    assert await computed(stub_repository, events, method) == 0


async def test_the_control_without_the_check_they_are(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "is_lost", lambda self, entry: False)
    monkeypatch.setattr(Pace, "one_call", lambda self, events: -math.inf)  # nor what would be late
    assert await computed(stub_repository, events, "stream") == LATE


async def forwarded() -> tuple[int, list[type[BaseException]]]:
    """How many of 40 late events a forwarder passes on behind a call that takes long."""
    gate = Gate()
    forwarder = make_forwarder(gate, size=8, calls=1, queue=100)
    busy = asyncio.create_task(forwarder.submit([0]))
    await gate.has_started()
    soon = asyncio.get_running_loop().time() + 0.05
    path = ("a", "b")
    late = [
        asyncio.create_task(forwarder.submit(range(1, 33), soon, Priority.ONLINE, path)),
        *(asyncio.create_task(forwarder.submit([n], soon)) for n in range(33, 41)),
    ]
    await asyncio.sleep(0.1)
    gate.passes.release(100)
    found = await asyncio.gather(*late, return_exceptions=True)
    await busy
    await forwarder.drain()
    forwarder.close()
    passed = sum(len(items) for items, _ in gate.calls) - 1
    return passed, [type(one) for one in found if isinstance(one, BaseException)]


async def test_the_forwarder_passes_none_on() -> None:
    assert await forwarded() == (0, [DeadlinePassedError] * 9)


async def test_the_control_a_forwarder_without_the_check_passes_them_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Room, "is_lost", lambda self, entry: False)
    passed, _ = await forwarded()
    assert passed == 40


async def test_what_is_in_time_is_computed(stub_repository: Path, events: Events) -> None:
    """The control of the other side: the same load with time enough."""
    async with saturated(stub_repository, events) as (service, patient):
        calls = [service.stub.Reconstruct(request(e), timeout=30) for e in events(LATE)]
        await until(lambda: service.server.batcher.waiting == 20 + LATE)
        service.engine.passes.release(10**6)
        assert {await call.code() for call in calls} == {grpc.StatusCode.OK} == {Code.OK}
        await patient
        assert service.engine.rows == 21 + LATE
