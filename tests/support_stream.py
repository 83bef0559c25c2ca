"""Streams without our own client: what it would never do is what the server must bear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from support_server import SETTINGS, GatedEngine, Running, running
from xec.event import Event, EventBatch
from xec.wire import codec
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.events.streams import StreamPolicy
from xec_server.queueing.batcher import BatchPolicy
from xec_server.settings import ServerSettings


def settings(policy: StreamPolicy | None = None, **batching: Any) -> ServerSettings:
    """One event per engine call and one call at a time, so that the order of service is seen."""
    batching = {"size": 1, "queue": 1024, "workers": 1} | batching
    return replace(
        SETTINGS, batching=BatchPolicy(**batching), streams=policy or StreamPolicy(window=64)
    )


class Order:
    """Which events the engine computed, one after the other, by their first counts."""

    def __init__(self, engine: GatedEngine) -> None:
        self.served: list[float] = []
        infer = engine.infer

        def watched(inputs: Any) -> Any:
            self.served += [float(row[0]) for row in inputs["npho"]]
            return infer(inputs)

        engine.infer = watched  # type: ignore[method-assign]


def marked(batch: EventBatch, first: int) -> list[Event]:
    """The events with `first`, `first` + 1, ... as count of channel 0, to be told by `Order`."""
    events = []
    for number, event in enumerate(batch):
        npho, valid = event.npho.copy(), event.npho_valid.copy()
        npho[0], valid[0] = first + number, True
        events.append(replace(event, npho=npho, npho_valid=valid, event=first + number))
    return events


class Stream:
    """A call that is written and read by hand."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, *ids_and_events: tuple[int, Event], timeout: float = 0) -> None:
        for number, event in ids_and_events:
            message = pb.StreamEvent(id=number, event=codec.event_to_proto(event), timeout=timeout)
            await self.call.write(pb.StreamRequest(event=message))

    async def acknowledge(self, *ids: int) -> None:
        message = pb.StreamAcknowledgement(id=ids)
        await self.call.write(pb.StreamRequest(acknowledgement=message))

    async def answer(self) -> pb.StreamAnswer:
        message = await asyncio.wait_for(self.call.read(), 30)
        assert message is not grpc.aio.EOF
        assert message.WhichOneof("content") == "answer"
        return message.answer

    async def answers(self, count: int) -> list[pb.StreamAnswer]:
        return [await self.answer() for _ in range(count)]

    async def rest(self) -> list[pb.StreamAnswer]:
        """All answers to the end of the call, which must be a good one."""
        found = []
        while (message := await asyncio.wait_for(self.call.read(), 30)) is not grpc.aio.EOF:
            found.append(message.answer)
        assert await self.call.code() == grpc.StatusCode.OK
        return found

    async def end(self) -> list[pb.StreamAnswer]:
        await self.call.done_writing()
        return await self.rest()


async def opened(stub: Any, **opening: Any) -> Stream:
    """A stream whose opening was answered."""
    call = stub.ReconstructStream()
    await call.write(pb.StreamRequest(open=pb.StreamOpen(**opening)))
    message = await asyncio.wait_for(call.read(), 30)
    assert message.opened.window, message
    return Stream(call)


@asynccontextmanager
async def another_client(service: Running) -> AsyncIterator[Any]:
    """A stub with a connection of its own."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ]
    address = str(service.server.address)
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield ReconstructionStub(channel)


@asynccontextmanager
async def held_back(
    repository: Path, policy: StreamPolicy | None = None, **batching: Any
) -> AsyncIterator[tuple[Running, Order]]:
    """A server whose engine waits for `passes`, but for one event that keeps it busy."""
    async with running(repository, settings=settings(policy, **batching)) as service:
        order = Order(service.engine)
        service.engine.hold()
        yield service, order
        service.engine.passes.release(10**6)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    end = asyncio.get_running_loop().time() + 30
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.002)


async def steady(value: Callable[[], int], seconds: float = 0.3) -> int:
    """The value once it has not changed for a while."""
    last, since = value(), asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - since < seconds:
        await asyncio.sleep(0.01)
        if value() != last:
            last, since = value(), asyncio.get_running_loop().time()
    return last


def ids(answers: Sequence[pb.StreamAnswer]) -> list[int]:
    return [answer.id for answer in answers]
