"""The life of a server: it says when it is ready, drains, stops; `xec serve` as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from xec.conditions.dead_list import DeadList
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import FileError, ServiceError, UsageError
from xec.event import EventBatch
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.address import Address
from xec_server.app import SERVICE, Server
from xec_server.queueing.batcher import BatchPolicy
from xec_server.settings import ServerSettings, batching_for

Events = Callable[..., EventBatch]
Status = health_pb2.HealthCheckResponse
LOCAL = Address(port=0)
NOTHING_DEAD = DeadList.of(())


class SlowEngine(OnnxEngine):
    """Takes its time once asked to, without blocking the loop."""

    seconds = 0.0

    def infer(self, inputs: Any) -> dict[str, np.ndarray]:
        time.sleep(self.seconds)
        return super().infer(inputs)


@asynccontextmanager
async def started(
    repository: Path, **settings: Any
) -> AsyncIterator[tuple[Server, SlowEngine, grpc.aio.Channel]]:
    engine = SlowEngine(repository, OnnxSettings(sessions=2))
    server = Server(engine, NOTHING_DEAD, ServerSettings(address=LOCAL, **settings))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            yield server, engine, channel
    finally:
        await server.stop()


def request(events: Events) -> pb.ReconstructRequest:
    return pb.ReconstructRequest(event=codec.event_to_proto(next(iter(events(1)))))


@pytest.mark.parametrize("name", ["", "xec.v1.Reconstruction"])
async def test_health_follows_the_life(name: str, stub_repository: Path) -> None:
    async with started(stub_repository) as (server, _, channel):
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service=name)
        assert (await health.Check(asked)).status == Status.SERVING
        watch = health.Watch(asked)
        assert (await watch.read()).status == Status.SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == Status.NOT_SERVING
        await stopping
    assert name in ("", SERVICE)


async def test_health_knows_no_other_service(stub_repository: Path) -> None:
    async with started(stub_repository) as (_, _, channel):
        asked = health_pb2.HealthCheckRequest(service="other")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(channel).Check(asked)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_what_is_served(stub_repository: Path) -> None:
    async with started(stub_repository) as (_, _, channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        await call.done_writing()
        names = {service.name for service in answer.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_stopping_answers_what_was_accepted_and_refuses_the_rest(
    stub_repository: Path, events: Events
) -> None:
    async with started(stub_repository) as (server, engine, channel):
        stub = ReconstructionStub(channel)
        await stub.Reconstruct(request(events))
        engine.seconds = 0.3
        accepted = [asyncio.ensure_future(stub.Reconstruct(request(events))) for _ in range(20)]
        while server.batcher.counts.accepted < 21:
            await asyncio.sleep(0.001)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Reconstruct(request(events))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "stopping" in caught.value.details()
        assert len(await asyncio.gather(*accepted)) == 20
        await stopping


async def test_the_grace_bounds_the_stop(stub_repository: Path, events: Events) -> None:
    batching = BatchPolicy(size=1, workers=1)
    settings = {"grace": 0.05, "batching": batching}
    async with started(stub_repository, **settings) as (server, engine, channel):
        engine.seconds = 0.2
        stub = ReconstructionStub(channel)
        calls = [asyncio.ensure_future(stub.Reconstruct(request(events))) for _ in range(5)]
        while server.batcher.counts.accepted < 5:
            await asyncio.sleep(0.001)
        await server.stop()
        results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert len(refused) >= 3
    assert {error.code() for error in refused} == {grpc.StatusCode.UNAVAILABLE}


async def test_the_ready_file_lives_as_long_as_the_service(
    stub_repository: Path, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    async with started(stub_repository, ready_file=ready) as (server, _, _channel):
        assert ready.read_text() == f"{server.address}\n"
        assert server.address.port != 0
    assert list(tmp_path.iterdir()) == []


async def test_a_ready_file_that_cannot_be_written_ends_the_server(
    stub_repository: Path, tmp_path: Path
) -> None:
    settings = ServerSettings(address=LOCAL, ready_file=tmp_path / "nowhere" / "ready")
    server = Server(OnnxEngine(stub_repository), NOTHING_DEAD, settings)
    with pytest.raises(FileError, match=r"nowhere does not exist\.$"):
        await server.start()
    again = ServerSettings(address=server.address)
    other = Server(OnnxEngine(stub_repository), NOTHING_DEAD, again)
    await other.start()  # the port is free again
    await other.stop()


async def test_a_port_in_use_is_refused(stub_repository: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    async with started(stub_repository, ready_file=ready) as (first, engine, _):
        settings = ServerSettings(address=first.address, ready_file=ready)
        second = Server(engine, NOTHING_DEAD, settings)
        with pytest.raises(ServiceError, match=f"listen on {first.address}"):
            await second.start()
        await second.stop()
        assert ready.exists()  # it is the first one's


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:8", "::1", 8), ("localhost:50", "localhost", 50)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address.parse(text)) == text
    assert Address.parse(text).is_loopback


@pytest.mark.parametrize("text", ["", "50051", ":50051", "host:", "host:x", "host:65536", "h:-1"])
def test_texts_that_are_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "daq.example.org"])
def test_only_loopback_without_saying_so(host: str) -> None:
    with pytest.raises(UsageError, match="--insecure-listen"):
        ServerSettings(address=Address(host, 1))
    ServerSettings(address=Address(host, 1), insecure_listen=True)


def test_a_queue_takes_at_least_one_batch() -> None:
    with pytest.raises(UsageError, match="at least 256"):
        ServerSettings(batching=BatchPolicy(queue=255))


def test_batches_are_made_in_one_place() -> None:
    engine = OnnxSettings(sessions=3, largest_batch=6)
    assert batching_for(engine, 0.002, 500) == BatchPolicy(6, 0.002, 500, 3)


# --- xec serve ---------------------------------------------------------------------------------

XEC = [sys.executable, "-c", "from xec.cli import main; main()", "serve", "--sessions", "1"]


def run_serve(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`xec serve` that is expected to end by itself."""
    command = [*XEC, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`xec serve` on a free port, and its first line."""
    command = [*XEC, "--listen", "127.0.0.1:0", *map(str, arguments)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_serve_answers_and_stops_on_sigterm(
    stub_repository: Path, tmp_path: Path, events: Events
) -> None:
    ready, dead = tmp_path / "ready", tmp_path / "dead.txt"
    dead.write_text("# sensors of run 7\n12\n4759\n")
    arguments = ("--model", stub_repository, "--ready-file", ready, "--dead-list", dead)
    with serving(*arguments) as (process, line):
        address = ready.read_text().strip()
        assert line.startswith("xec serve: model reconstruct stub-1 (sha256 ")
        assert line.endswith(f"listens on {address}\n")
        with grpc.insecure_channel(address) as channel:
            answer = ReconstructionStub(channel).Reconstruct(request(events), timeout=20)
        assert {12, 4759} <= set(answer.recovered.channel)

        taken = run_serve("--model", stub_repository, "--listen", address)
        assert taken.returncode == 7
        assert taken.stderr.startswith(f"xec: Nothing can listen on {address}: is the port in use")
        assert taken.stderr.count("\n") == 1

        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in errors
        assert not ready.exists()


def test_serve_refuses_bad_models_and_settings(
    tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    path = save_model(stub_model(), tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    listed = tmp_path / "dead.txt"
    listed.write_text("5000\n")
    cases = [
        (("--model", tmp_path / "none"), 5, "There is no model repository at"),
        (("--model", tmp_path), 5, "is corrupted or was changed"),
        (("--listen", "0.0.0.0:1"), 2, "nothing is encrypted"),
        (("--dead-list", listed, "--no-dead-list"), 2, "contradict each other"),
        (("--dead-list", listed), 4, "5000"),
        (("--engine-timeout", "nan"), 2, "--engine-timeout is above 0"),
        (("--ready-file", "/dev/null"), 3, "it is a device"),
    ]
    for arguments, code, words in cases:
        ended = run_serve(*arguments)
        assert ended.returncode == code, (arguments, ended.stderr)
        assert words in ended.stderr
        assert ended.stderr.startswith("xec: ")
        assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--batch-size", "--threads", "--sessions", "--calls"])
def test_a_slip_of_the_finger_does_not_take_the_machine(option: str) -> None:
    ended = run_serve("--no-dead-list", option, 100_000)
    assert ended.returncode == 2
    assert option in ended.stderr
