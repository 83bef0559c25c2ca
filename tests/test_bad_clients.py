"""Clients that send half of things, never read, or die: others are served meanwhile.

A server process of its own, so that its memory and descriptors are seen alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from support_bad_clients import HEADERS, MEMORY, bounded, without
from support_http2 import PREFACE, connected, frame, message
from support_server import Events
from support_server_process import Served, serving
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb


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
async def test_half_a_message(server_process: Served, events: Events, ends: Any) -> None:
    async with bounded(server_process, events) as others:
        await others.during(half_then_silence(server_process.address, ends))
        assert len(others.seconds) > 10


@pytest.mark.parametrize("content", [b"", PREFACE[:7], PREFACE, b"GET / HTTP/1.1\r\n\r\n"])
async def test_connections_that_say_little(
    server_process: Served, events: Events, content: bytes
) -> None:
    async def quiet() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(100):
                one = await stack.enter_async_context(
                    connected(server_process.address, begin=False)
                )
                with suppress(OSError):
                    await one.raw(content)
            await asyncio.sleep(0.5)

    async with bounded(server_process, events) as others:
        await others.during(quiet())


@pytest.mark.faults
async def test_a_connection_that_says_nothing_is_closed(
    server_process: Served, events: Events
) -> None:
    async with (
        bounded(server_process, events) as others,
        connected(server_process.address, begin=False) as one,
    ):
        await others.during(asyncio.wait_for(one.reader.read(), 30))


async def half_sent(served: Served) -> int:
    """What a server takes of a hundred messages of 8 MB that never end."""
    content = message(bytes(16_000_000))[:8_000_000]
    async with connected(served.address) as connection:
        calls = [await connection.call("Reconstruct") for _ in range(99)]
        return sum(await asyncio.gather(*(connection.send(call, content) for call in calls)))


async def test_a_hundred_large_messages_half_sent(server_process: Served, events: Events) -> None:
    async with bounded(server_process, events) as others:
        taken = await others.during(half_sent(server_process))
        assert 64e6 <= taken < 75e6  # eight of them, and the window of each other call


@pytest.mark.faults
async def test_the_control_with_windows_that_grow(stub_repository: Path, tmp_path: Path) -> None:
    code = without("grpc.http2.bdp_probe")
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
async def test_one_that_never_reads(server_process: Served, events: Events, method: str) -> None:
    async with bounded(server_process, events) as others:
        for _ in range(50):
            await others.call()
        usual = sorted(others.seconds)[25]
        others.seconds.clear()
        await others.during(never_reading(server_process, method, contents(events)[method], 12))
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


async def test_a_thousand_streams_on_many_connections(
    server_process: Served, events: Events
) -> None:
    async with bounded(server_process, events) as others:
        found = await others.during(many_streams(server_process, 10, 100))
        assert found == {"open": 64, "8": 936}


async def test_a_thousand_streams_on_one_connection(server_process: Served, events: Events) -> None:
    async def all_at_once() -> None:
        async with connected(server_process.address) as connection:
            opening = message(pb.StreamRequest(open=pb.StreamOpen()).SerializeToString())
            numbers = range(1, 2001, 2)
            each = (frame(1, 4, n, HEADERS) + frame(0, 0, n, opening) for n in numbers)
            await connection.raw(b"".join(each))
            await asyncio.sleep(1)

    async with bounded(server_process, events) as others:
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
async def test_a_client_that_is_killed(server_process: Served, events: Events, call: str) -> None:
    async def killed() -> None:
        code = _VICTIM.format(path=sys.path, address=server_process.address, call=call)
        for _ in range(2):
            victim = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
            )
            assert victim.stdout is not None
            assert await victim.stdout.readline() == b"ready\n"
            await asyncio.sleep(0.3)
            os.kill(victim.pid, signal.SIGKILL)
            assert await victim.wait() == -signal.SIGKILL

    async with bounded(server_process, events) as others:
        await others.during(killed())
