"""Around a client that misbehaves: one that behaves, and what the server takes meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import hpack

from support_http2 import PREFIX
from support_server import Events, request
from support_server_process import Served
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub

MEMORY = 150  # megabytes that a fault may take for a while


@asynccontextmanager
async def client(served: Served) -> AsyncIterator[Any]:
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ]
    async with grpc.aio.insecure_channel(served.address, options) as channel:
        yield ReconstructionStub(channel)


class Others:
    """A client that behaves, and measures how long its calls take."""

    def __init__(self, stub: Any, event: Any) -> None:
        self._stub = stub
        self._request = request(event)
        self.seconds: list[float] = []

    async def call(self) -> None:
        begin = time.monotonic()
        answer = await self._stub.Reconstruct(self._request, timeout=30)
        assert answer.event == self._request.event.event
        self.seconds.append(time.monotonic() - begin)

    async def during(self, fault: Awaitable[Any]) -> Any:
        """Call again and again while `fault` goes on; all calls succeed."""
        task = asyncio.ensure_future(fault)
        while not task.done():
            await self.call()
            await asyncio.sleep(0.005)
        return await task


@asynccontextmanager
async def bounded(served: Served, events: Events, memory: float = MEMORY) -> AsyncIterator[Others]:
    """Around a fault: memory is bounded, descriptors come back, the server answers after it."""
    event = next(iter(events(1)))
    async with client(served) as stub:
        others = Others(stub, event)
        for _ in range(20):
            await others.call()
        descriptors, resident = served.descriptors, served.resident
        served.forget()
        others.seconds.clear()
        yield others
        await others.call()
        end = time.monotonic() + 30
        while served.descriptors > descriptors:
            assert time.monotonic() < end, (served.descriptors, descriptors)
            await asyncio.sleep(0.05)
        assert served.most_resident - resident < memory


def without(*names: str) -> str:
    """How a server starts that lacks some of its options of gRPC, for a control."""
    return f"""
import sys
from xec_server import app
app.GRPC_OPTIONS = tuple(o for o in app.GRPC_OPTIONS if o[0] not in {names!r})
from xec.cli import main
sys.argv = ["xec", *sys.argv[1:]]
main()
"""


def headers() -> bytes:
    """Of a call, without the state of a compressor."""
    pairs = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PREFIX + "Reconstruct"),
        (":authority", "server"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    encoder = hpack.Encoder()
    return encoder.encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in pairs])


HEADERS = headers()
