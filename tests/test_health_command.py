"""`xec health` against real servers: serving, starting, stopping, silent, absent, behind TLS."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import typer
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from support_server import running
from xec.errors import FileError, ServiceError, UsageError
from xec_client.access import NO_ACCESS, Access
from xec_client.health import COMMAND, Question, await_serving

Status = health_pb2.HealthCheckResponse
SERVICE = "xec.v1.Reconstruction"
NAME = "xec.test"


@contextmanager
def health_server(
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[tuple[str, health.HealthServicer]]:
    """gRPC's own health service, by itself."""
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(0).wait()


def ask(
    address: str,
    wait: float = 0.0,
    service: str = "",
    access: Access = NO_ACCESS,
    name: str | None = None,
) -> None:
    await_serving(address, Question(service), wait, access, name)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_a_server_of_ours_serves_until_it_is_told_to_stop(
    stub_repository: Path, service: str
) -> None:
    async with running(stub_repository) as here:
        address = str(here.server.address)
        await asyncio.to_thread(ask, address, 0.0, service)
    with pytest.raises(ServiceError, match=address):
        await asyncio.to_thread(ask, address, 0.0, service)


def test_a_server_that_does_not_serve_is_not_healthy() -> None:
    with health_server() as (address, servicer):
        servicer.set("", Status.NOT_SERVING)
        with pytest.raises(ServiceError, match="does not serve: NOT_SERVING"):
            ask(address)
        with pytest.raises(ServiceError, match="no service 'other'"):
            ask(address, service="other")
        servicer.set("", Status.SERVING)
        ask(address)


def test_it_waits_as_long_as_it_is_told_and_no_longer() -> None:
    with health_server() as (address, servicer):
        servicer.set("", Status.NOT_SERVING)
        later = threading.Timer(0.5, servicer.set, ("", Status.SERVING))
        later.start()
        ask(address, wait=30)
        assert not later.is_alive()
        servicer.set("", Status.NOT_SERVING)
        begun = time.monotonic()
        with pytest.raises(ServiceError):
            ask(address, wait=0.6)
        assert 0.3 < time.monotonic() - begun < 20


def test_it_waits_for_a_server_that_is_not_there_yet() -> None:
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceError, match="UNAVAILABLE"):
            ask(address, wait=0.5)


def test_a_peer_that_never_answers_does_not_hold_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceError, match=r"DEADLINE_EXCEEDED|UNAVAILABLE"):
            await_serving(address, Question(timeout=0.3))


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command("health")(COMMAND.run)
    result = CliRunner().invoke(app, list(arguments), env=environment)
    code = getattr(result.exception, "exit_code", result.exit_code)
    return code, result.stdout


def test_the_status_of_the_command_is_the_answer() -> None:
    with health_server() as (address, servicer):
        servicer.set("", Status.SERVING)
        assert run(address) == (0, f"xec health: {address} serves\n")
        assert run("--quiet", XEC_HEALTH_SERVER=address) == (0, "")
        servicer.set("", Status.NOT_SERVING)
        assert run(address) == (7, "")
        assert run(address, "--alive") == (0, f"xec health: {address} answers\n")
    assert run(address, "--alive") == (7, "")
    assert run("nowhere")[0] == 2


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate that vouches for itself, its key, and one of a stranger."""
    folder = tmp_path_factory.mktemp("pem")
    for stem in ("server", "stranger"):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
        command += ["-addext", f"subjectAltName=DNS:{NAME}"]
        command += ["-keyout", f"{folder}/{stem}.key", "-out", f"{folder}/{stem}.crt"]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def credentials(pem: Path, mutual: bool) -> grpc.ServerCredentials:
    pair = ((pem / "server.key").read_bytes(), (pem / "server.crt").read_bytes())
    root = (pem / "server.crt").read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], root, mutual)


def test_tls_needs_the_right_certificate_and_name(pem: Path) -> None:
    ca = pem / "server.crt"
    with health_server(credentials(pem, mutual=False)) as (address, servicer):
        servicer.set("", Status.SERVING)
        ask(address, access=Access(ca), name=NAME)
        stranger = Access(pem / "stranger.crt")
        for access, name in ((NO_ACCESS, None), (Access(ca), None), (stranger, NAME)):
            with pytest.raises(ServiceError):
                ask(address, access=access, name=name)


def test_mutual_tls_needs_the_callers_own(pem: Path) -> None:
    ca, key = pem / "server.crt", pem / "server.key"
    with health_server(credentials(pem, mutual=True)) as (address, servicer):
        servicer.set("", Status.SERVING)
        ask(address, access=Access(ca, ca, key), name=NAME)
        with pytest.raises(ServiceError):
            ask(address, access=Access(ca), name=NAME)


def test_files_for_tls_that_contradict_or_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs --server-ca"):
        ask("127.0.0.1:1", name=NAME)
    with pytest.raises(UsageError, match="belong together"):
        ask("127.0.0.1:1", access=Access(tmp_path / "ca", client_cert=tmp_path / "cert"))
    with pytest.raises(FileError, match="ca cannot be read"):
        ask("127.0.0.1:1", access=Access(tmp_path / "ca"))
    with pytest.raises(UsageError, match="one at a time"):
        ask("127.0.0.1:1,127.0.0.1:2")
