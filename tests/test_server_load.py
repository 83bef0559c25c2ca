"""The server under load, past deadlines, and with an engine that fails."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from support_server import Code, Events, Running, refusal, request, still_serves
from xec.errors import EngineError
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb


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
    while not next(iter(service.server.batcher._room)).future.cancelled():
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
