"""The port for operators: reload, drain and status, by calls, by `xec admin` and by signals."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from support_operator import LETS_ALL_IN, TOKEN, tokens_file
from support_server import DEAD, NOTHING_DEAD, SETTINGS, GatedEngine, details, refusal, request
from support_stream import until
from support_swap import add_version, other_model, swapping, two_models
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import AccessError, ModelError, ServiceError, UsageError, XecError
from xec.wire.v1 import admin_pb2 as pb
from xec.wire.v1.admin_pb2_grpc import AdminStub
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.address import Address
from xec_server.admin_command import app
from xec_server.app import Server, serve
from xec_server.settings import ServerSettings

Code = grpc.StatusCode
WITH_ADMIN = replace(SETTINGS, admin=Address(port=0), identity=LETS_ALL_IN)
XEC = [sys.executable, "-c", "from xec.cli import main; main()", "serve", "--sessions", "1"]
OPTIONS = [("grpc.max_receive_message_length", 2**24)]


def xec_admin(*words: str) -> tuple[str, XecError | None]:
    """What `xec admin` prints, and the error that it ends with."""
    done = CliRunner().invoke(app, words)
    error = done.exception
    assert error is None or isinstance(error, XecError), done.output
    return done.output, error


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`xec serve` with a port for operators, and both addresses."""
    ready = folder / "ready"
    command = [*XEC, "--model", str(folder), "--no-dead-list", "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--tokens", str(tokens_file(folder))]
    command += ["--ready-file", str(ready), *arguments]
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            end = time.monotonic() + 60
            while not ready.exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end
                time.sleep(0.02)
            address, admin = ready.read_text().splitlines()
            patch.setenv("XEC_TOKEN", TOKEN)
            yield process, address, admin.removeprefix("admin ")
        finally:
            process.kill()


def version_at(address: str, events: Any) -> str:
    with grpc.insecure_channel(address, OPTIONS) as channel:
        stub = ReconstructionStub(channel)
        (event,) = events(1)
        answer = stub.Reconstruct(request(event, dead_list=NOTHING_DEAD), timeout=20)
    return str(answer.provenance.model_version)


# --- the calls -----------------------------------------------------------------------------------


async def test_reload_answers_with_what_serves_now(tmp_path: Path) -> None:
    async with (
        swapping(two_models(tmp_path), WITH_ADMIN) as server,
        grpc.aio.insecure_channel(str(server.admin.address)) as channel,  # type: ignore[union-attr]
    ):
        stub = AdminStub(channel)
        answer = await stub.Reload(pb.ReloadRequest())
        assert (answer.changed, answer.provenance.model_version) == (True, "stub-2")
        assert answer.provenance.model_sha256 == server.model.sha256
        again = await stub.Reload(pb.ReloadRequest(version=2))
        assert (again.changed, again.provenance) == (False, answer.provenance)
        text, _ = await refusal(
            stub.Reload(pb.ReloadRequest(version=9)), Code.FAILED_PRECONDITION, "RELOAD_REFUSED"
        )
        assert "has no version 9; there is 1, 2" in text
        assert "'stub-2' goes on answering" in text


async def test_status_counts(tmp_path: Path, events: Any) -> None:
    async with (
        swapping(two_models(tmp_path), WITH_ADMIN) as server,
        grpc.aio.insecure_channel(str(server.admin.address)) as channel,  # type: ignore[union-attr]
        grpc.aio.insecure_channel(str(server.address), OPTIONS) as calls,
    ):
        stub = AdminStub(channel)
        for event in events(3):
            await ReconstructionStub(calls).Reconstruct(request(event, dead_list=NOTHING_DEAD))
        await stub.Reload(pb.ReloadRequest())
        status = await stub.GetStatus(pb.GetStatusRequest())
        assert (status.events.accepted, status.events.computed, status.waiting) == (3, 3, 0)
        assert (status.swaps, status.models_open, status.streams) == (1, 1, 0)
        assert (status.serving, status.draining, status.conditions) == (True, False, "own")
        assert status.provenance.model_version == "stub-2"
        assert status.address == str(server.address)
        assert status.uptime_seconds > 0


async def test_operators_calls_are_not_on_the_other_port(tmp_path: Path) -> None:
    async with (
        swapping(two_models(tmp_path), WITH_ADMIN) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await AdminStub(channel).GetStatus(pb.GetStatusRequest())
        assert caught.value.code() == Code.UNIMPLEMENTED


@pytest.mark.parametrize("grace", [-1.0, float("nan"), float("inf"), 1e9])
async def test_a_grace_that_is_none(tmp_path: Path, grace: float) -> None:
    async with (
        swapping(two_models(tmp_path), WITH_ADMIN) as server,
        grpc.aio.insecure_channel(str(server.admin.address)) as channel,  # type: ignore[union-attr]
    ):
        call = AdminStub(channel).Drain(pb.DrainRequest(grace=grace))
        await refusal(call, Code.INVALID_ARGUMENT, "INVALID_GRACE")
        assert not server.ending.told.is_set()


async def test_a_drain_that_takes_too_long_says_what_it_cut_off(
    stub_repository: Path, events: Any
) -> None:
    engine = GatedEngine(OnnxEngine(stub_repository, OnnxSettings(sessions=2)))
    servers: list[Server] = []
    running = asyncio.create_task(serve(engine, DEAD, WITH_ADMIN, servers.append))
    await until(lambda: bool(servers))
    (server,) = servers
    engine.hold()
    async with (
        grpc.aio.insecure_channel(str(server.admin.address)) as channel,  # type: ignore[union-attr]
        grpc.aio.insecure_channel(str(server.address), OPTIONS) as calls,
    ):
        stub = ReconstructionStub(calls)
        waiting = [asyncio.ensure_future(stub.Reconstruct(request(one))) for one in events(20)]
        await until(lambda: server.batcher.counts.accepted == 20)
        answer = await AdminStub(channel).Drain(pb.DrainRequest(grace=0.05))
        assert answer.cut_off == 20  # two of them in the engine
        # The engine only is slow: that is no engine that does not come back.
        asyncio.get_running_loop().call_later(0.2, engine.passes.release, 100)
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert await running == 0
    codes = {one.code() for one in ended if isinstance(one, grpc.aio.AioRpcError)}
    assert codes <= {Code.UNAVAILABLE, Code.CANCELLED}
    assert sum(isinstance(one, grpc.aio.AioRpcError) for one in ended) == 20


async def test_bytes_that_are_no_message(tmp_path: Path) -> None:
    """The port stands behind the same guard as all calls."""
    async with (
        swapping(two_models(tmp_path), WITH_ADMIN) as server,
        grpc.aio.insecure_channel(str(server.admin.address)) as channel,  # type: ignore[union-attr]
    ):
        call = channel.unary_unary("/xec.v1.Admin/Reload")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff")
        assert details(caught.value)["ErrorInfo"].reason == "UNPARSEABLE_REQUEST"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "daq.example.org"])
def test_operators_are_on_this_machine(host: str) -> None:
    with pytest.raises(UsageError, match="can stop the server"):
        ServerSettings(admin=Address(host, 1), insecure_listen=True, identity=LETS_ALL_IN)
    with pytest.raises(UsageError, match="another machine"):
        raise xec_admin("status", "--admin", str(Address(host, 1)))[1] or AssertionError


# --- `xec serve --admin` and `xec admin` ---------------------------------------------------------


def test_a_reload_and_a_drain_from_the_command_line(tmp_path: Path, events: Any) -> None:
    two_models(tmp_path)
    with serving(tmp_path, "--model-version", "1") as (process, address, admin):
        assert process.stdout is not None
        assert process.stdout.readline().endswith(f"listens on {address}, operators on {admin}\n")
        assert version_at(address, events) == "stub-1"
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("XEC_TOKEN")
            _, error = xec_admin("status", "--admin", admin)
        assert isinstance(error, AccessError)
        assert "needs the right admin" in str(error)
        text, error = xec_admin("reload", "--admin", admin, "--version", "2")
        assert (error, text.endswith("answers now.\n")) == (None, True)
        assert re.match(r"Model reconstruct stub-2 \(sha256 [0-9a-f]{12}\) ", text)
        assert version_at(address, events) == "stub-2"
        text, error = xec_admin("status", "--admin", admin)
        assert error is None
        assert f"serving on {address}" in text
        _, error = xec_admin("status", "--admin", address)
        assert isinstance(error, ServiceError)
        assert f"{address} is a server's port for events: name that of" in str(error)
        assert "2 accepted: 2 computed" in text
        _, error = xec_admin("reload", "--admin", admin, "--version", "5")
        assert isinstance(error, ModelError)
        assert "has no version 5" in str(error)
        text, error = xec_admin("drain", "--admin", admin)
        assert (error, "answered all that it accepted" in text) == (None, True)
        assert process.wait(30) == 0
        _, error = xec_admin("status", "--admin", admin)
        assert isinstance(error, ServiceError)
        assert "Nothing answers operators at" in str(error)


def test_sighup_is_a_reload_and_a_second_sigterm_ends_at_once(tmp_path: Path, events: Any) -> None:
    two_models(tmp_path)
    with serving(tmp_path, "--drain-delay", "600") as (process, address, _):
        assert version_at(address, events) == "stub-2"
        add_version(tmp_path, 3, other_model(2.0, model_version="stub-3"))
        process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 60
        while version_at(address, events) != "stub-3":
            assert time.monotonic() < end
            time.sleep(0.02)
        broken = tmp_path / "reconstruct" / "4"
        broken.mkdir()
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        while "the model was not replaced" not in process.stderr.readline():
            pass
        assert version_at(address, events) == "stub-3"
        process.send_signal(signal.SIGTERM)
        while "stopping" not in process.stderr.readline():
            pass
        assert version_at(address, events) == "stub-3"  # calls are accepted in the delay
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Stub:
        def __init__(self, channel: object) -> None:
            del channel

        def GetStatus(self, request: Any, **options: Any) -> Any:  # noqa: N802
            seen.append(options["metadata"])
            return pb.GetStatusResponse()

    monkeypatch.setattr("xec.wire.v1.admin_pb2_grpc.AdminStub", Stub)
    file = tmp_path / "token"
    file.write_text("from-the-file\n")
    file.chmod(0o600)
    monkeypatch.delenv("XEC_TOKEN", raising=False)
    look = ("status", "--admin", "127.0.0.1:1")
    xec_admin(*look)
    monkeypatch.setenv("XEC_TOKEN", "from-the-environment")
    xec_admin(*look)
    xec_admin(*look, "--token-file", str(file))
    assert seen == [
        (),
        (("authorization", "Bearer from-the-environment"),),
        (("authorization", "Bearer from-the-file"),),
    ]
    file.chmod(0o644)
    _, error = xec_admin(*look, "--token-file", str(file))
    assert "others can read" in str(error)
    _, error = xec_admin(*look, "--token-file", str(tmp_path / "none"))
    assert error is not None
    assert "cannot be read" in str(error)
