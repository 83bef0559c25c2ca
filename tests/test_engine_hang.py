"""An engine that hangs or dies: every call ends, the queue stays bounded, health tells, it exits.

The processes are real, and so is what they hang in: a loop without end inside ONNX Runtime.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support_daq import ended, free_port, wait_until, xec
from support_server import SETTINGS, Code, Events, Running, details, refusal, request, running
from support_stream import until
from support_traps import DEVOURS, HANGS, event_with, trapped_repository
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.queueing.batcher import BatchPolicy

Status = health_pb2.HealthCheckResponse
POOL = """
from concurrent.futures import ThreadPoolExecutor
from xec_server.queueing import batcher
class Pool(ThreadPoolExecutor):
    busy = 0
batcher.DaemonThreads = lambda count, name: Pool(count)
"""


async def health(channel: grpc.aio.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
    return int(answer.status)


async def until_health(channel: grpc.aio.Channel, status: int) -> None:
    while await health(channel) != status:
        await asyncio.sleep(0.02)


# --- in this process, with the real engine held back ---------------------------------------------


@asynccontextmanager
async def holding(repository: Path, timeout: float) -> AsyncIterator[Running]:
    batching = BatchPolicy(size=1, queue=300, workers=2)
    settings = replace(SETTINGS, batching=batching, engine_timeout=timeout, grace=1)
    async with running(repository, settings=settings) as service:
        yield service


def in_balance(service: Running, under_way: int = 0) -> bool:
    counts = service.server.batcher.counts
    known = counts.computed + counts.failed + counts.expired + counts.abandoned
    return counts.accepted == known + service.server.batcher.waiting + under_way


async def test_it_hangs_and_comes_back(
    stub_repository: Path, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with holding(stub_repository, 0.4) as service:
        service.engine.hold()
        ask = service.stub.Reconstruct
        asked = request(next(iter(events(1))))
        calls = [asyncio.ensure_future(ask(asked)) for _ in range(12)]  # they would wait for ever
        await until(lambda: service.server.batcher.counts.accepted == 12)
        for call in calls:
            await refusal(call, Code.UNAVAILABLE, "ENGINE_HANGS")
        await until_health(service.channel, Status.NOT_SERVING)
        assert service.server.batcher.waiting == 0
        rows = service.engine.rows
        await refusal(ask(asked), Code.UNAVAILABLE, "ENGINE_HANGS")
        assert in_balance(service, under_way=2)
        service.engine.passes.release(10**6)
        await until_health(service.channel, Status.SERVING)
        assert (await ask(asked)).event == 0
        assert service.engine.rows == rows + 1  # nobody computed for those who had been told
        assert in_balance(service)
    assert "no engine call has come back" in caplog.text
    assert "the engine has come back" in caplog.text


async def test_one_of_two_hangs_and_the_other_goes_on(
    stub_repository: Path, events: Events
) -> None:
    async with holding(stub_repository, 0.4) as service:
        service.engine.passes = gate = type(service.engine.passes)(0)
        asked = request(next(iter(events(1))))
        hangs = asyncio.ensure_future(service.stub.Reconstruct(asked))
        assert await asyncio.to_thread(service.engine.started.acquire, timeout=30)
        service.engine.passes = type(gate)(10**6)  # the next ones pass
        for _ in range(20):
            await service.stub.Reconstruct(asked)
            await asyncio.sleep(0.04)
        await refusal(hangs, Code.UNAVAILABLE, "ENGINE_HANGS")
        assert await health(service.channel) == Status.SERVING
        assert not service.server.engine_lost.is_set()
        gate.release()
        await until(lambda: in_balance(service))


async def test_a_long_call_within_the_limit_is_no_hang(
    stub_repository: Path, events: Events
) -> None:
    async with holding(stub_repository, 60) as service:
        service.engine.hold()
        asked = request(next(iter(events(1))))
        calls = [asyncio.ensure_future(service.stub.Reconstruct(asked)) for _ in range(4)]
        await until(lambda: service.server.batcher.waiting == 2)
        await asyncio.sleep(0.5)
        assert await health(service.channel) == Status.SERVING
        service.engine.passes.release(10**6)
        assert len(await asyncio.gather(*calls)) == 4


async def test_calls_that_wait_end_by_their_deadline(stub_repository: Path, events: Events) -> None:
    async with holding(stub_repository, 60) as service:
        service.engine.hold()
        asked = request(next(iter(events(1))))
        calls = [service.stub.Reconstruct(asked, timeout=0.5) for _ in range(40)]
        codes = {(await one_end(call))[0] for call in calls}
        assert codes == {Code.DEADLINE_EXCEEDED}


# --- real processes ------------------------------------------------------------------------------


@dataclass
class Process:
    address: str
    process: subprocess.Popen[str]


@contextmanager
def process(folder: Path, *arguments: object, first: str = "") -> Iterator[Process]:
    """`xec serve` on the model with traps, one event per engine call."""
    address = f"127.0.0.1:{free_port()}"
    options = ("--no-dead-list", "--batch-size", 1, "--sessions", 2, "--listen", address)
    repository = trapped_repository(folder / "trapped")
    started = xec("serve", "--model", repository, *options, *arguments, first=first)
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert address in line, line or started.communicate()[1]
        yield Process(address, started)
    finally:
        started.kill()
        started.communicate()


async def one_end(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ended, and why."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        has_details = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata())
        return error.code(), details(error)["ErrorInfo"].reason if has_details else ""
    return Code.OK, ""


def asked_for(light: float) -> pb.ReconstructRequest:
    return request(event_with(light))


async def test_a_native_hang_ends_the_process_for_its_supervisor(tmp_path: Path) -> None:
    with process(tmp_path, "--engine-timeout", 1, "--grace", 1) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            ask = ReconstructionStub(channel).Reconstruct
            assert await one_end(ask(asked_for(DEVOURS))) == (Code.UNAVAILABLE, "ENGINE_FAILED")
            first = asyncio.ensure_future(one_end(ask(asked_for(HANGS))))
            assert await one_end(ask(asked_for(1))) == (Code.OK, "")  # by the other worker
            assert await health(channel) == Status.SERVING
            second = asyncio.ensure_future(one_end(ask(asked_for(HANGS))))
            waiting = [asyncio.ensure_future(one_end(ask(asked_for(1)))) for _ in range(20)]
            ends = await asyncio.wait_for(asyncio.gather(first, second), 30)
            assert ends == [(Code.UNAVAILABLE, "ENGINE_HANGS")] * 2
            found = await asyncio.wait_for(asyncio.gather(*waiting), 30)
            assert set(found) <= {(Code.OK, ""), (Code.UNAVAILABLE, "ENGINE_HANGS")}
        status, _, said = await asyncio.to_thread(ended, server.process, 60)
    assert status == 7, said
    assert said.splitlines()[-1].startswith("xec: The inference engine did not come back")


@pytest.mark.parametrize(
    "first",
    ["", pytest.param(POOL, marks=pytest.mark.faults)],
    ids=["daemon threads", "control: a pool"],
)
async def test_a_server_that_hangs_still_stops(tmp_path: Path, first: str) -> None:
    with process(tmp_path, "--grace", 0.5, first=first) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            ask = ReconstructionStub(channel).Reconstruct
            calls = [asyncio.ensure_future(one_end(ask(asked_for(HANGS)))) for _ in range(2)]
            await asyncio.sleep(0.5)  # they are in the engine, and the third will wait
            calls.append(asyncio.ensure_future(one_end(ask(asked_for(1), timeout=20))))
            await asyncio.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            ends = await asyncio.wait_for(asyncio.gather(*calls), 30)
            assert set(ends) == {(Code.UNAVAILABLE, "DRAINING")}
        if first:
            with pytest.raises(subprocess.TimeoutExpired):
                await asyncio.to_thread(server.process.wait, 6)
        else:
            status, _, _said = await asyncio.to_thread(ended, server.process, 30)
            assert status == 7


async def test_a_crash_leaves_no_call_without_a_status(tmp_path: Path) -> None:
    with process(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            ask = ReconstructionStub(channel).Reconstruct
            assert await one_end(ask(asked_for(1))) == (Code.OK, "")
            calls = [asyncio.ensure_future(one_end(ask(asked_for(1)))) for _ in range(50)]
            calls.append(asyncio.ensure_future(one_end(ask(asked_for(HANGS)))))
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            server.process.send_signal(signal.SIGSEGV)
            ends = await asyncio.wait_for(asyncio.gather(*calls), 30)
        assert len(ends) == 51
        assert {code for code, _ in ends} <= {Code.OK, Code.UNAVAILABLE}
        assert ends[-1][0] is Code.UNAVAILABLE
        wait_until(lambda: server.process.poll() is not None)
        assert server.process.returncode == -signal.SIGSEGV
