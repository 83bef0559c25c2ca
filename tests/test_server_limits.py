"""Each limit of a server at its value and one beyond; and that it goes on serving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support_http2 import connected, message, zeros_in_gzip
from support_server import (
    NOTHING_DEAD,
    SETTINGS,
    Code,
    Events,
    Running,
    refusal,
    request,
    running,
    still_serves,
)
from support_stream import another_client, until
from xec.errors import UsageError
from xec.wire import codec
from xec.wire.limits import MAX_METADATA_BYTES, MAX_REQUEST_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.limits import CallLimits

METHOD = "/xec.v1.Reconstruction/Reconstruct"


@asynccontextmanager
async def limited(repository: Path, **limits: Any) -> AsyncIterator[Running]:
    settings = replace(SETTINGS, limits=CallLimits(**limits))
    async with running(repository, settings=settings) as service:
        yield service


async def held_calls(stub: Any, events: Events, service: Running, count: int) -> list[Any]:
    """Calls that are in progress and stay so."""
    before = service.server.calls.in_progress
    calls = [asyncio.ensure_future(stub.Reconstruct(request(event))) for event in events(count)]
    await until(lambda: service.server.calls.in_progress == before + count)
    return calls


async def test_calls_of_one_client(stub_repository: Path, events: Events) -> None:
    async with (
        limited(stub_repository, per_client=5) as service,
        another_client(service) as other,
    ):
        service.engine.hold()
        calls = await held_calls(service.stub, events, service, 5)
        await until(lambda: service.server.batcher.waiting == 5 - 2)
        await until(lambda: service.engine.rows == 2)  # that are with the engine
        rows = service.engine.rows
        one_more = service.stub.Reconstruct(request(next(iter(events(1)))))
        text, found = await refusal(one_more, Code.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert "5 of one client" in text
        assert found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
        assert (service.engine.rows, service.server.calls.refused) == (rows, 1)
        calls += await held_calls(other, events, service, 1)  # another client has its own
        await health_of(service)  # nor does it stand in the way of who watches
        service.engine.passes.release(100)
        await asyncio.gather(*calls)
        assert service.server.calls.in_progress == 0
        await still_serves(service, events)


async def health_of(service: Running) -> None:
    stub = health_pb2_grpc.HealthStub(service.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_calls_in_all(stub_repository: Path, events: Events) -> None:
    async with (
        limited(stub_repository, per_client=3, calls=5) as service,
        another_client(service) as other,
    ):
        service.engine.hold()
        calls = await held_calls(service.stub, events, service, 3)
        calls += await held_calls(other, events, service, 2)
        one_more = other.Reconstruct(request(next(iter(events(1)))))
        await refusal(one_more, Code.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        service.engine.passes.release(100)
        await asyncio.gather(*calls)
        await still_serves(service, events)


async def test_a_call_that_is_refused_was_never_received(stub_repository: Path) -> None:
    """The gate stands before the message: it need not even have been sent."""
    async with limited(stub_repository, per_client=1) as service:
        address = str(service.server.address)
        async with connected(address) as connection:
            await connection.call("Reconstruct")
            await until(lambda: service.server.calls.in_progress == 1)
            reply = await connection.reply(await connection.call("Reconstruct"))
            assert reply.status == str(Code.RESOURCE_EXHAUSTED.value[0])
        await until(lambda: service.server.calls.in_progress == 0)


@pytest.mark.parametrize("sent", [0, 20_000])
async def test_a_message_that_does_not_come(
    stub_repository: Path, events: Events, sent: int
) -> None:
    async with limited(stub_repository, receiving=0.3) as service:
        content = message(request(next(iter(events(1)))).SerializeToString())
        async with connected(str(service.server.address)) as connection:
            call = await connection.call("Reconstruct")
            await connection.send(call, content[:sent])
            reply = await connection.reply(call)
            assert reply.status == str(Code.DEADLINE_EXCEEDED.value[0])
            assert "did not arrive within 0.3 s" in reply.headers["grpc-message"]
        assert service.engine.rows == service.server.calls.in_progress == 0
        await still_serves(service, events)


async def test_a_call_that_ends_without_a_message(service: Running) -> None:
    async with connected(str(service.server.address)) as connection:
        call = await connection.call("Reconstruct")
        connection.h2.end_stream(call)
        await connection.flush()
        reply = await connection.reply(call)
        assert reply.status == str(Code.INVALID_ARGUMENT.value[0])
        assert "grpc-status-details-bin" in reply.headers


async def test_a_call_without_a_deadline_has_one(stub_repository: Path, events: Events) -> None:
    async with limited(stub_repository, longest=0.3) as service:
        service.engine.hold()
        event = next(iter(events(1)))
        text, _ = await refusal(
            service.stub.Reconstruct(request(event)), Code.DEADLINE_EXCEEDED, "DEADLINE_PASSED"
        )
        assert "ends after 0.3 s" in text
        # The control: one with a deadline is not ended by that.
        call = asyncio.ensure_future(service.stub.Reconstruct(request(event), timeout=30))
        await asyncio.sleep(0.6)
        assert not call.done()
        service.engine.passes.release(100)
        await call


@pytest.mark.parametrize(
    ("size", "fits"), [(MAX_REQUEST_BYTES, True), (MAX_REQUEST_BYTES + 1, False)]
)
async def test_the_size_of_a_message(
    service: Running, events: Events, size: int, fits: bool
) -> None:
    """Of the size that is received the guard speaks; of a greater one gRPC, without a reason."""
    call = service.channel.unary_unary(METHOD)(bytes([0x0A, 0x00]) * (size // 2) + bytes(size % 2))
    if fits:
        await refusal(call, Code.INVALID_ARGUMENT, "TOO_MANY_EVENTS")
    else:
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
            await call
        assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    assert service.engine.rows == 0
    await still_serves(service, events)


async def test_the_size_of_metadata(service: Running, events: Events) -> None:
    event = next(iter(events(1)))

    async def with_value(length: int) -> Code:
        call = service.stub.Reconstruct(request(event), metadata=[("note", "n" * length)])
        await asyncio.wait([asyncio.ensure_future(call.code())])
        code = await call.code()
        assert code is Code.OK or "metadata size exceeds" in await call.details()
        return code

    # The client adds some of its own: between them and the limit lies the edge, found by halving.
    low, high = MAX_METADATA_BYTES - 1024, MAX_METADATA_BYTES
    assert (await with_value(low), await with_value(high)) == (Code.OK, Code.RESOURCE_EXHAUSTED)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await with_value(middle) is Code.OK else (low, middle)
    # Not by chance: the same answer each time on both sides of the edge.
    assert {await with_value(low) for _ in range(20)} == {Code.OK}
    assert {await with_value(high) for _ in range(20)} == {Code.RESOURCE_EXHAUSTED}
    await still_serves(service, events)


async def test_connections(stub_repository: Path, events: Events) -> None:
    async with limited(stub_repository, connections=4) as service:
        await still_serves(service, events)  # by the first one
        async with AsyncExitStack() as stack:
            address = str(service.server.address)
            others = [await stack.enter_async_context(connected(address)) for _ in range(3)]
            for other in others:
                await other.reply(await refused_call(other))
            one_more = await stack.enter_async_context(connected(address))
            await asyncio.wait_for(one_more.gone.wait(), 30)
            assert not one_more.replies
            await still_serves(service, events)
        async with connected(address) as again:  # there is room once more
            await asyncio.sleep(0.2)
            await again.reply(await refused_call(again))


async def refused_call(connection: Any) -> int:
    """A call that ends at once."""
    call = await connection.call("Reconstruct")
    await connection.send(call, message(b"\xff"), end=True)
    return int(call)


async def test_calls_of_one_connection_wait_on_the_side_of_the_client(
    stub_repository: Path, events: Events
) -> None:
    """HTTP/2 lets 100 through; gRPC's client holds the others back, and none is refused."""
    async with limited(stub_repository) as service:
        service.engine.hold()
        event = request(next(iter(events(1))), dead_list=NOTHING_DEAD)
        calls = [asyncio.ensure_future(service.stub.Reconstruct(event)) for _ in range(130)]
        await until(lambda: service.server.calls.in_progress == 100)
        await asyncio.sleep(0.2)
        assert service.server.calls.in_progress == 100
        service.engine.passes.release(1000)
        await asyncio.gather(*calls)
        assert service.server.calls.refused == 0


async def test_compressed_messages_are_refused_unopened(service: Running, events: Events) -> None:
    content = request(next(iter(events(1)))).SerializeToString()
    call = service.channel.unary_unary(METHOD)
    with pytest.raises(grpc.aio.AioRpcError, match="disabled") as caught:
        await call(content, compression=grpc.Compression.Gzip)
    assert caught.value.code() == Code.UNIMPLEMENTED
    async with connected(str(service.server.address)) as connection:
        number = await connection.call("Reconstruct", ("grpc-encoding", "gzip"))
        await connection.send(number, message(zeros_in_gzip(32 << 20), compressed=True), end=True)
        assert (await connection.reply(number)).status == str(Code.UNIMPLEMENTED.value[0])
    await call(content)  # the control


@pytest.mark.parametrize("name", ["connections", "calls", "per_client", "receipts", "receiving"])
def test_limits_that_make_no_sense(name: str) -> None:
    with pytest.raises(UsageError):
        CallLimits(**{name: 0})


async def test_half_sent_messages_take_the_place_of_a_few(
    stub_repository: Path, events: Events
) -> None:
    """What a client sends beyond them waits in its own connection, and no one else waits."""
    async with limited(stub_repository, receipts=2) as service:
        big = message(bytes(8_000_000))[:4_000_000]
        async with connected(str(service.server.address)) as connection:
            calls = [await connection.call("Reconstruct") for _ in range(10)]
            sent = await asyncio.gather(*(connection.send(call, big) for call in calls))
            assert sorted(sent, reverse=True)[:2] == [len(big)] * 2
            assert sum(sent) < 2 * len(big) + 8 * 100_000
            await still_serves(service, events)
        await until(lambda: service.server.calls.in_progress == 0)
        message_of_another = codec.event_to_proto(next(iter(events(1))))
        batch = pb.ReconstructBatchRequest(events=[message_of_another] * 3)
        assert len((await service.stub.ReconstructBatch(batch)).responses) == 3
