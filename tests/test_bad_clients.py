"""Clients that send half of things, never read, flood, or die: others are served meanwhile.

A server process of its own, so that its memory and descriptors are seen alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import hpack
import pytest

from support_http2 import PREFACE, PREFIX, connected, frame, message, zeros_in_gzip
from support_server import Events, request
from support_server_process import Served, serving
from xec.wire import codec
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub

log = logging.getLogger(__name__)
MEMORY = 150  # megabytes that a fault may take for a while
_OLD_SERVER = """
import sys
from xec_server import app
app.GRPC_OPTIONS = tuple(o for o in app.GRPC_OPTIONS if o[0] not in {names})
from xec.cli import main
sys.argv = ["xec", *sys.argv[1:]]
main()
"""


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


@pytest.fixture(scope="module")
def served(stub_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(stub_repository, tmp_path_factory.mktemp("served")) as found:
        yield found


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


async def half_then_silence(address: str, ends: Callable[[Any, int], Awaitable[None]]) -> None:
    content = message(bytes(100_000))
    async with AsyncExitStack() as stack:
        for _ in range(10):
            connection = await stack.enter_async_context(connected(address))
            for _ in range(10):
                call = await connection.call("Reconstruct")
                await connection.send(call, content[:30_000])
                await ends(connection, call)
        await asyncio.sleep(0.5)


async def nothing_more(connection: Any, call: int) -> None:
    del connection, call


async def reset(connection: Any, call: int) -> None:
    connection.h2.reset_stream(call)
    await connection.flush()


@pytest.mark.parametrize("ends", [nothing_more, reset])
async def test_half_a_message(served: Served, events: Events, ends: Any) -> None:
    async with bounded(served, events) as others:
        await others.during(half_then_silence(served.address, ends))
        assert len(others.seconds) > 10


@pytest.mark.parametrize("content", [b"", PREFACE[:7], PREFACE, b"GET / HTTP/1.1\r\n\r\n"])
async def test_connections_that_say_little(served: Served, events: Events, content: bytes) -> None:
    async def quiet() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(100):
                one = await stack.enter_async_context(connected(served.address, begin=False))
                with suppress(OSError):
                    await one.raw(content)
            await asyncio.sleep(0.5)

    async with bounded(served, events) as others:
        await others.during(quiet())


@pytest.mark.faults
async def test_a_connection_that_says_nothing_is_closed(served: Served, events: Events) -> None:
    async with bounded(served, events) as others, connected(served.address, begin=False) as one:
        await others.during(asyncio.wait_for(one.reader.read(), 30))


async def flood(address: str, blocks: Callable[[int], bytes], count: int, reads: bool) -> int:
    """Write blocks until all are sent or the server has had enough; how many were sent."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def read() -> None:
        with suppress(OSError):
            while await reader.read(1 << 16):
                pass

    reading = asyncio.create_task(read()) if reads else None
    sent = 0
    try:
        writer.write(PREFACE + frame(4, 0, 0))
        with suppress(OSError, TimeoutError):
            for sent in range(count):
                writer.write(blocks(sent))
                await asyncio.wait_for(writer.drain(), 2)
                await asyncio.sleep(0)
        await asyncio.sleep(0.2)
    finally:
        writer.transport.abort()
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
    return sent


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


def pings(number: int) -> bytes:
    return frame(6, 0, 0, bytes(8)) * 500


def settings(number: int) -> bytes:
    return frame(4, 0, 0) * 500


def resets(number: int) -> bytes:
    first = 1 + 2 * 100 * number
    streams = range(first, first + 200, 2)
    cancel = (8).to_bytes(4, "big")
    return b"".join(frame(1, 4, s, HEADERS) + frame(3, 0, s, cancel) for s in streams)


def continuations(number: int) -> bytes:
    """Of headers that never end."""
    more = b"\x00\x01a\x7f\x00" + b"b" * 127
    begin = frame(1, 0, 1, HEADERS) if number == 0 else b""
    return begin + frame(9, 0, 1, more) * 500


def empty_data(number: int) -> bytes:
    begin = frame(1, 4, 1, HEADERS) if number == 0 else b""
    return begin + frame(0, 0, 1) * 500


FLOODS = [pings, settings, resets, continuations, empty_data]


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("blocks", FLOODS)
async def test_floods(served: Served, events: Events, blocks: Any, reads: bool) -> None:
    async with bounded(served, events) as others:
        await others.during(flood(served.address, blocks, 100, reads))


@pytest.mark.faults
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("blocks", FLOODS)
async def test_long_floods(served: Served, events: Events, blocks: Any, reads: bool) -> None:
    before = served.resident
    async with bounded(served, events) as others:
        await others.during(flood(served.address, blocks, 1000, reads))
        growth = served.most_resident - before
        longest = max(others.seconds)
        log.info("%s: +%.0f MB, longest other call %.3f s", blocks.__name__, growth, longest)


@pytest.mark.faults
async def test_the_control_with_strikes_pings_take_memory(
    stub_repository: Path, tmp_path: Path, events: Events
) -> None:
    code = _OLD_SERVER.format(names={"grpc.http2.max_ping_strikes"})
    with serving(stub_repository, tmp_path, code=code) as served:
        before = served.resident
        await flood(served.address, pings, 1000, reads=True)
        assert served.most_resident - before > MEMORY


async def bomb(served: Served, megabytes: int) -> str:
    content = message(zeros_in_gzip(megabytes << 20), compressed=True)
    async with connected(served.address) as connection:
        call = await connection.call("Reconstruct", ("grpc-encoding", "gzip"))
        await connection.send(call, content, end=True)
        return (await connection.reply(call, 60)).headers["grpc-message"]


@pytest.mark.parametrize("megabytes", [64, pytest.param(1024, marks=pytest.mark.faults)])
async def test_compressed_zeros(served: Served, events: Events, megabytes: int) -> None:
    """A gigabyte fits into a megabyte."""
    async with bounded(served, events, memory=megabytes / 2) as others:
        assert "disabled" in await others.during(bomb(served, megabytes))


@pytest.mark.faults
async def test_the_control_with_compression_it_is_unpacked(
    stub_repository: Path, tmp_path: Path
) -> None:
    code = _OLD_SERVER.format(names={"grpc.compression_enabled_algorithms_bitset"})
    with serving(stub_repository, tmp_path, code=code) as served:
        before = served.resident
        await bomb(served, 300)
        assert served.most_resident - before > MEMORY


async def half_sent(served: Served) -> int:
    """What a server takes of a hundred messages of 8 MB that never end."""
    content = message(bytes(16_000_000))[:8_000_000]
    async with connected(served.address) as connection:
        calls = [await connection.call("Reconstruct") for _ in range(99)]
        return sum(await asyncio.gather(*(connection.send(call, content) for call in calls)))


async def test_a_hundred_large_messages_half_sent(served: Served, events: Events) -> None:
    async with bounded(served, events) as others:
        taken = await others.during(half_sent(served))
        assert 64e6 <= taken < 75e6  # eight of them, and the window of each other call


@pytest.mark.faults
async def test_the_control_with_windows_that_grow(stub_repository: Path, tmp_path: Path) -> None:
    code = _OLD_SERVER.format(names={"grpc.http2.bdp_probe"})
    with serving(stub_repository, tmp_path, code=code) as served:
        before = served.resident
        assert await half_sent(served) > 500e6
        assert served.most_resident - before > 3 * MEMORY


async def never_reading(served: Served, method: str, content: bytes, calls: int) -> None:
    """A client that asks and opens no window for what is answered."""
    async with connected(served.address, answers=False) as connection:
        ends = not method.endswith("Stream")
        numbers = [await connection.call(method) for _ in range(calls)]
        await asyncio.gather(*(connection.send(call, content, end=ends) for call in numbers))
        await asyncio.sleep(1)


def contents(events: Events) -> dict[str, bytes]:
    messages = [codec.event_to_proto(event) for event in events(40)]
    batch = pb.ReconstructBatchRequest(events=messages).SerializeToString()
    stream = [pb.StreamRequest(open=pb.StreamOpen()).SerializeToString()]
    stream += [
        pb.StreamRequest(event=pb.StreamEvent(id=n, event=one)).SerializeToString()
        for n, one in enumerate(messages)
    ]
    return {
        "Reconstruct": message(pb.ReconstructRequest(event=messages[0]).SerializeToString()),
        "ReconstructBatch": message(batch),
        "ReconstructStream": b"".join(message(one) for one in stream),
    }


@pytest.mark.parametrize("method", ["Reconstruct", "ReconstructBatch", "ReconstructStream"])
async def test_one_that_never_reads(served: Served, events: Events, method: str) -> None:
    async with bounded(served, events) as others:
        for _ in range(50):
            await others.call()
        usual = sorted(others.seconds)[25]
        others.seconds.clear()
        await others.during(never_reading(served, method, contents(events)[method], 12))
        # Once its answers are computed it costs nothing more.
        later = sorted(others.seconds[len(others.seconds) // 2 :])
        assert later[len(later) // 2] < 10 * usual + 0.02


async def many_streams(served: Served, connections: int, each: int) -> dict[str, int]:
    """How each of many streams begins; HTTP/2 allows 100 on a connection."""
    opening = message(pb.StreamRequest(open=pb.StreamOpen()).SerializeToString())
    found: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(connections):
            one = await stack.enter_async_context(connected(served.address))
            for _ in range(each):
                calls.append((one, await one.call("ReconstructStream")))
                await one.send(calls[-1][1], opening)
        await asyncio.sleep(1)
        for one, call in calls:
            reply = one.replies.get(call)
            text = "none" if reply is None else reply.status or ("open" if reply.data else "none")
            found[text] = found.get(text, 0) + 1
    return found


async def test_a_thousand_streams_on_many_connections(served: Served, events: Events) -> None:
    async with bounded(served, events) as others:
        found = await others.during(many_streams(served, 10, 100))
        assert found == {"open": 64, "8": 936}


async def test_a_thousand_streams_on_one_connection(served: Served, events: Events) -> None:
    async def all_at_once() -> None:
        async with connected(served.address) as connection:
            opening = message(pb.StreamRequest(open=pb.StreamOpen()).SerializeToString())
            numbers = range(1, 2001, 2)
            each = (frame(1, 4, n, HEADERS) + frame(0, 0, n, opening) for n in numbers)
            await connection.raw(b"".join(each))
            await asyncio.sleep(1)

    async with bounded(served, events) as others:
        await others.during(all_at_once())


_VICTIM = """
import sys
sys.path[:0] = {path!r}
from conftest import random_events
from xec_client import Client
events = list(random_events(200))
with Client({address!r}, timeout=60) as client:
    print("ready", flush=True)
    while True:
        for answer in {call}:
            pass
"""


@pytest.mark.parametrize(
    "call",
    [
        "client.stream(events)",
        pytest.param("client.reconstruct_batch(events)", marks=pytest.mark.faults),
    ],
)
async def test_a_client_that_is_killed(served: Served, events: Events, call: str) -> None:
    async def killed() -> None:
        code = _VICTIM.format(path=sys.path, address=served.address, call=call)
        for _ in range(2):
            victim = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
            )
            assert victim.stdout is not None
            assert await victim.stdout.readline() == b"ready\n"
            await asyncio.sleep(0.3)
            os.kill(victim.pid, signal.SIGKILL)
            assert await victim.wait() == -signal.SIGKILL

    async with bounded(served, events) as others:
        await others.during(killed())
