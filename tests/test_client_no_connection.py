"""Connections that do not come about: one sentence that names what to check, over real TLS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from support_client import FaultyServicer, ask_awaiting, ask_blocking, real_server, serving
from support_daq import free_port
from support_identity import DAY, NOW, House, Pair, issue
from xec.errors import ServiceError
from xec_client import errors
from xec_client.access import Access
from xec_client.health import Question, await_serving
from xec_client.no_connection import RUNS, no_connection
from xec_client.retry import NO_RETRY
from xec_server.identity.identity import Identity, open_identity

Asking = Callable[..., Any]
TIMES = 3
CERTIFICATE = "check whether it asks for a certificate"
SPEAKS_TLS = r"check whether it speaks TLS \(--server-ca\): it closed the connection before"
AUTHORITY = "check --server-ca, the dates of the server's certificate and the clock here"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def mutual(house: House, stub_repository: Path) -> Iterator[str]:
    """A server that asks for certificates."""
    identity = open_identity(*house.server_files(), house.ca)
    with real_server(stub_repository, identity=identity) as address:
        yield address


@pytest.fixture(scope="module")
def clear(stub_repository: Path) -> Iterator[str]:
    """A server without TLS."""
    with real_server(stub_repository, identity=Identity()) as address:
        yield address


@pytest.fixture(params=[ask_blocking, ask_awaiting], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Asking:
    return request.param


def credentials(house: House, pair: Pair | None = None, ca: Pair | None = None) -> Any:
    trusted = (ca or house.authority).cert_pem
    return grpc.ssl_channel_credentials(
        trusted, *(() if pair is None else (pair.key_pem, pair.cert_pem))
    )


def said(ask: Asking, address: str, tls: Any) -> str:
    """What the client says of a call that reaches no server."""
    with pytest.raises(errors.Unavailable) as caught:
        ask(address, "model", tls=tls, retry=NO_RETRY, call={"timeout": 20})
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"The server at {address} is not available after 1 attempt, check")
    return text


def pairs(house: House) -> dict[str, Pair | None]:
    return {
        "none": None,
        "of another authority": issue("client", issue("another")),
        "expired": issue("client", house.authority, until=NOW - DAY),
    }


@pytest.mark.parametrize("which", ["none", "of another authority", "expired"])
def test_a_certificate_that_is_refused(ask: Asking, house: House, mutual: str, which: str) -> None:
    good = credentials(house, issue("client", house.authority))
    assert ask(mutual, "model", tls=good).provenance  # the control
    for _ in range(TIMES):
        text = said(ask, mutual, credentials(house, pairs(house)[which]))
        assert f"{CERTIFICATE} (--client-cert)" in text
        assert "it closed the connection before it said anything" in text


def test_a_client_in_clear_to_a_server_with_tls(ask: Asking, mutual: str) -> None:
    for _ in range(TIMES):
        assert "check whether it speaks TLS (--server-ca)" in said(ask, mutual, None)


def test_a_client_with_tls_to_a_server_in_clear(ask: Asking, house: House, clear: str) -> None:
    assert ask(clear, "model").provenance  # the control
    text = said(ask, clear, credentials(house))
    assert "leave --server-ca out" in text
    assert "does not speak TLS" in text


def test_an_authority_that_did_not_sign(ask: Asking, house: House, mutual: str) -> None:
    text = said(ask, mutual, credentials(house, ca=issue("another")))
    assert f"{AUTHORITY}: its certificate is refused, unable to get local issuer" in text


def test_a_server_whose_certificate_has_ended(ask: Asking, house: House) -> None:
    late = issue("server", house.authority, until=NOW - DAY)
    ended = grpc.ssl_server_credentials([(late.key_pem, late.cert_pem)])
    with serving(FaultyServicer(), credentials=ended) as address:
        text = said(ask, address, credentials(house))
    assert f"{AUTHORITY}: its certificate is refused, certificate has expired" in text


def test_a_server_that_goes_by_another_name(ask: Asking, house: House) -> None:
    other = issue("elsewhere", house.authority, alternatives=["elsewhere"])
    named = grpc.ssl_server_credentials([(other.key_pem, other.cert_pem)])
    with serving(FaultyServicer(), credentials=named) as address:
        assert "check that it is called by a name in its certificate" in said(
            ask, address, credentials(house)
        )


@pytest.mark.parametrize("encrypted", [True, False])
def test_the_control_nothing_listens(ask: Asking, house: House, encrypted: bool) -> None:
    """Where it is not TLS, nothing is said of it."""
    text = said(ask, f"127.0.0.1:{free_port()}", credentials(house) if encrypted else None)
    assert f"{RUNS}: it cannot be connected to" in text
    assert "TLS" not in text
    assert "certificate" not in text


@contextmanager
def breaking(answered: str) -> Iterator[str]:
    """What passes a server on, and breaks each connection after its first words."""
    host, port = answered.split(":")
    listening = socket.create_server(("127.0.0.1", 0))

    def pass_on() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client, socket.create_connection((host, int(port))) as server, suppress(OSError):
                client.settimeout(10)
                server.settimeout(10)
                server.sendall(client.recv(65536))
                client.sendall(server.recv(65536))
                client.recv(65536)  # the call, or what comes before it

    thread = threading.Thread(target=pass_on)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(30)


def test_the_control_a_connection_that_breaks_later(ask: Asking, clear: str) -> None:
    """It was there, so that TLS is not what it lacks."""
    with breaking(clear) as address:
        text = said(ask, address, None)
    assert RUNS in text
    assert "TLS" not in text


def test_waiting_and_health_say_so_too(
    ask: Asking, house: House, mutual: str, stub_repository: Path
) -> None:
    with pytest.raises(errors.Unavailable, match=f"not ready within 2 s, {CERTIFICATE}"):
        ask(mutual, "wait_ready", 2.0, tls=credentials(house))
    with pytest.raises(ServiceError, match=f"UNAVAILABLE, {CERTIFICATE}"):
        await_serving(mutual, Question(), access=Access(house.ca))
    with pytest.raises(errors.Unavailable, match=SPEAKS_TLS):
        ask(mutual, "wait_ready", 2.0)
    with pytest.raises(ServiceError, match="check whether it speaks TLS"):
        await_serving(mutual, Question())


def test_other_words_are_left_alone() -> None:
    assert no_connection("Socket closed", encrypted=True) is None
