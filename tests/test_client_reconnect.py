"""A server that was away is found again by the next call, and nobody's call is cut for that."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from support_client import failing
from support_daq import free_port, xec
from support_identity import House, issue
from support_server import Events
from xec_client import Client, connections, errors
from xec_client.connections import BlockingConnections
from xec_client.exchange import GET_MODEL, Send
from xec_client.retry import NO_RETRY
from xec_client.settings import Settings

BETWEEN = 1.5  # seconds between two calls: longer than a connection may take to be made
NO_CONNECTION = "failed to connect to all addresses; last error: UNKNOWN: Connection refused (111)"


@contextmanager
def serving(repository: Path, address: str, *options: object) -> Iterator[None]:
    """A server process; it is killed at the end."""
    command = ("serve", "--model", repository, "--no-dead-list", "--listen", address)
    process: subprocess.Popen[str] = xec(*command, "--sessions", 1, *options)
    try:
        assert process.stdout is not None
        assert address in process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def ask(client: Client) -> str:
    try:
        client.model(timeout=5)
    except errors.Unavailable as error:
        return str(error)
    return "OK"


def after_an_absence(
    repository: Path, house: House, encrypted: bool, then: Callable[[Client], Any]
) -> Any:
    """What `then` gives for a client whose server was away for several calls, and is back."""
    address = f"127.0.0.1:{free_port()}"
    cert, key = house.server_files()
    options = ("--tls-cert", cert, "--tls-key", key) if encrypted else ()
    tls = grpc.ssl_channel_credentials(house.authority.cert_pem) if encrypted else None
    with Client(address, tls=tls, retry=NO_RETRY) as client:
        with serving(repository, address, *options):
            client.wait_ready(30)
        for _ in range(4):
            assert ask(client) != "OK"
            time.sleep(BETWEEN)
        with serving(repository, address, *options):
            return then(client)


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_server_that_was_away_is_found_by_the_next_call(
    stub_repository: Path, tmp_path: Path, encrypted: bool
) -> None:
    assert after_an_absence(stub_repository, House(tmp_path), encrypted, ask) == "OK"


def test_so_it_is_by_the_next_stream(stub_repository: Path, tmp_path: Path, events: Events) -> None:
    def stream(client: Client) -> int:
        return sum(one.error is None for one in client.stream(events(5), ()))

    assert after_an_absence(stub_repository, House(tmp_path), True, stream) == 5


def test_the_control_with_one_channel_for_ever(
    stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "is_no_connection", lambda text: False)

    def several(client: Client) -> list[str]:
        found = []
        for _ in range(4):
            found.append(ask(client))
            time.sleep(BETWEEN)
        return found

    found = after_an_absence(stub_repository, House(tmp_path), True, several)
    assert found.count("OK") < len(found)


def test_a_refused_client_is_let_in_once_the_server_asks_for_less(
    stub_repository: Path, tmp_path: Path
) -> None:
    house, address = House(tmp_path), f"127.0.0.1:{free_port()}"
    cert, key = house.server_files()
    options = ("--tls-cert", cert, "--tls-key", key)
    tls = grpc.ssl_channel_credentials(house.authority.cert_pem)
    good = issue("client", house.authority)
    mutual = grpc.ssl_channel_credentials(house.authority.cert_pem, good.key_pem, good.cert_pem)
    with Client(address, tls=tls, retry=NO_RETRY) as client:
        with serving(stub_repository, address, *options, "--tls-client-ca", house.ca):
            with Client(address, tls=mutual) as other:
                other.wait_ready(30)
            for _ in range(4):
                assert "check whether it asks for a certificate" in ask(client)
                time.sleep(BETWEEN)
        with serving(stub_repository, address, *options):
            assert ask(client) == "OK"


class Stream:
    """A call that ends when the test says so."""

    def __init__(self) -> None:
        self.end: Callable[[Any], None] = lambda call: None

    def add_done_callback(self, tell: Callable[[Any], None]) -> None:
        self.end = tell

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def details(self) -> str:
        return ""


class Channel:
    """Its unary calls fail, with `text`, or answer."""

    def __init__(self) -> None:
        self.is_closed = False
        self.text = ""
        self.call = Stream()

    def unary_unary(self, *arguments: Any) -> Callable[..., str]:
        def call(request: bytes, **options: Any) -> str:
            if self.text:
                raise failing(grpc.StatusCode.UNAVAILABLE, self.text)
            return "answer"

        return call

    def stream_stream(self, *arguments: Any) -> Callable[..., Stream]:
        return lambda requests, **options: self.call

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Channel]:
    """The channels that were made, the first with the first connections."""
    channels: list[Channel] = []

    def make(*arguments: Any) -> Channel:
        channels.append(Channel())
        return channels[-1]

    monkeypatch.setattr(grpc, "insecure_channel", make)
    return channels


ASK = Send(GET_MODEL, b"", 1.0)


def test_a_channel_is_closed_once_its_last_call_is_over(made: list[Channel]) -> None:
    held = BlockingConnections(Settings("paper:1"), None, None)
    call = held.streams[0](iter(()))
    made[0].text = NO_CONNECTION
    with pytest.raises(grpc.RpcError):
        held.send(ASK)
    assert len(made) == 2
    assert held.send(ASK) == "answer"  # of the new one
    assert not made[0].is_closed
    call.end(call)
    assert not made[0].is_closed  # by the next caller, not by the thread that tells of the end
    assert held.send(ASK) == "answer"
    assert [channel.is_closed for channel in made] == [True, False]
    held.close()
    assert made[1].is_closed


@pytest.mark.parametrize("text", ["Socket closed", "Deadline Exceeded", "Channel closed!"])
def test_a_channel_that_was_connected_stays(made: list[Channel], text: str) -> None:
    """What breaks later is mended by gRPC, within a channel."""
    held = BlockingConnections(Settings("paper:1"), None, None)
    made[0].text = text
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            held.send(ASK)
    assert len(made) == 1


def test_a_client_that_is_closed_opens_nothing(made: list[Channel]) -> None:
    held = BlockingConnections(Settings("paper:1"), None, None)
    held.close()
    made[0].text = NO_CONNECTION
    with pytest.raises(grpc.RpcError):
        held.send(ASK)
    assert len(made) == 1
