"""An open loop: calls leave at the times that were planned for them, whatever becomes of others.

Latencies count from the planned time, so that a client that falls behind hides nothing. The engine
is the real one in a real server process, and then takes a fixed time more, asleep: whatever the
client and the refusals cost, they do not cost capacity by making the engine slower.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from conftest import random_events
from support_daq import free_port, xec
from support_server import details, request
from xec.wire import codec
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb

METHOD = "/xec.v1.Reconstruction/"
PACED = """
import select, time  # select: libfaketime breaks the absolute times of time.sleep
from xec.engines import onnx
infer = onnx.OnnxEngine.infer
def paced(self, inputs):
    end = time.monotonic() + {seconds} * len(inputs["npho"])
    outputs = infer(self, inputs)
    select.select((), (), (), max(0, end - time.monotonic()))
    return outputs
onnx.OnnxEngine.infer = paced
"""
NO_FORESIGHT = """
from xec_server.queueing import pace, room
room.Room._refuse_hopeless = lambda *arguments: None
pace.Pace.one_call = lambda *arguments: float("-inf")
"""
SECONDS = 0.02  # of the engine for each event: four times as many cost the client little
WORKERS = 2
QUEUE = 256


@dataclass
class Kind:
    """What became of the calls of one kind; `events` of each call."""

    events: int = 1
    latencies: list[float] = field(default_factory=list)
    last: float = 0.0  # when the last answer came, by the clock of the loop
    refused: Counter[str] = field(default_factory=Counter)
    hints: list[float] = field(default_factory=list)
    overtaken: list[int] = field(default_factory=list)  # calls answered while each one waited

    @property
    def answered(self) -> int:
        return self.events * len(self.latencies)

    @property
    def offered(self) -> int:
        return self.answered + self.events * self.refused.total()

    def p99(self) -> float:
        return statistics.quantiles(self.latencies, n=100)[98]


Call = Callable[[], Awaitable[Any]]


async def note(kind: Kind, call: Call, planned: float) -> None:
    """One call, and how it ended."""
    before = len(kind.latencies)
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        found = {}
        if any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ()):
            found = details(error)
        reason = found["ErrorInfo"].reason if "ErrorInfo" in found else ""
        kind.refused[f"{error.code().name} {reason}".strip()] += 1
        if "RetryInfo" in found:
            kind.hints.append(found["RetryInfo"].retry_delay.ToTimedelta().total_seconds())
    else:
        kind.last = asyncio.get_running_loop().time()
        kind.overtaken.append(len(kind.latencies) - before)
        kind.latencies.append(kind.last - planned)


async def open_loop(kind: Kind, calls: list[Call], rate: float, seconds: float) -> None:
    """Calls at a steady rate (calls/s), by the given ways in turn."""
    loop = asyncio.get_running_loop()
    start, number, tasks = loop.time(), 0, []
    while (planned := start + number / rate) < start + seconds:
        await asyncio.sleep(max(0.0, planned - loop.time()))
        tasks.append(asyncio.create_task(note(kind, calls[number % len(calls)], planned)))
        number += 1
    await asyncio.gather(*tasks)


async def closed_loop(calls: list[Call], seconds: float, at_once: int = 16) -> float:
    """Calls per second of callers that wait for each answer: the capacity."""
    loop = asyncio.get_running_loop()
    end, done = loop.time() + seconds, 0

    async def caller(number: int) -> None:
        nonlocal done
        while loop.time() < end:
            await calls[number % len(calls)]()
            done += 1

    start = loop.time()
    await asyncio.gather(*(caller(number) for number in range(at_once)))
    return done / (loop.time() - start)


def single(lane: int = pb.LANE_UNSPECIFIED) -> bytes:
    content: bytes = request(next(iter(random_events(1))), lane=lane).SerializeToString()
    return content


def batch(count: int, lane: int = pb.LANE_UNSPECIFIED) -> bytes:
    messages = [codec.event_to_proto(event) for event in random_events(count)]
    content: bytes = pb.ReconstructBatchRequest(events=messages, lane=lane).SerializeToString()
    return content


@dataclass
class Target:
    """A server process, and clients with a connection each."""

    channels: list[grpc.aio.Channel]
    process: subprocess.Popen[str]

    def calls(
        self, method: str, content: bytes, timeout: float | None, clients: slice = slice(None)
    ) -> list[Call]:
        """The same request by each connection; answers are not decoded."""
        ways = [channel.unary_unary(METHOD + method) for channel in self.channels[clients]]
        return [lambda way=way: way(content, timeout=timeout) for way in ways]  # type: ignore[misc]


@asynccontextmanager
async def target(repository: Path, first: str = "", clients: int = 6) -> AsyncIterator[Target]:
    address = f"127.0.0.1:{free_port()}"
    options = ("--no-dead-list", "--sessions", WORKERS, "--queue", QUEUE, "--listen", address)
    paced = PACED.format(seconds=SECONDS) + first
    process = xec("serve", "--model", repository, *options, first=paced)
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert address in line, line or process.communicate()[1]
        options_of = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        ]
        async with AsyncExitStack() as stack:
            channels = [grpc.aio.insecure_channel(address, options_of) for _ in range(clients)]
            for channel in channels:
                await stack.enter_async_context(channel)
            yield Target(channels, process)
    finally:
        process.kill()
        process.communicate()
