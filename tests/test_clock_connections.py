"""The clock on the wall jumps under connections: pings, certificates that end, and the way back."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support_clock import Wall
from support_daq import ended, free_port, xec
from support_http2 import PREFACE, connected, frame
from support_identity import DAY, NOW, House, Pair, issue
from xec_client import Client, errors
from xec_client.access import Access

HOUR = 3600
DAYS = 24 * HOUR
PING, PATIENCE = 0.5, 5.0  # seconds between two pings, and for the answer to one
JUMPS = (HOUR, -HOUR, 400 * DAYS, -400 * DAYS, 0)
SHORT = {
    "grpc.keepalive_time_ms": int(1000 * PING),
    "grpc.keepalive_timeout_ms": int(1000 * PATIENCE),
    "grpc.http2.ping_timeout_ms": int(1000 * PATIENCE),
}
PINGING = f"""
from xec_server import app
app.GRPC_OPTIONS = tuple((name, {SHORT}.get(name, value)) for name, value in app.GRPC_OPTIONS)
"""
STREAMING = """
import json, queue, sys, threading
path, address, options = json.loads(sys.argv[1])
sys.path[:0] = path
import grpc
from conftest import random_events
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub

event = pb.StreamEvent(event=codec.event_to_proto(next(iter(random_events(1)))))
to_send = queue.SimpleQueue()
to_send.put(pb.StreamRequest(open=pb.StreamOpen()))

def send():
    for _ in sys.stdin:
        to_send.put(pb.StreamRequest(event=event))

threading.Thread(target=send, daemon=True).start()
options = [*options.items(), ("grpc.http2.max_pings_without_data", 0)]
with grpc.insecure_channel(address, options) as channel:
    try:
        for message in ReconstructionStub(channel).ReconstructStream(iter(to_send.get, None)):
            print(message.WhichOneof("content"), flush=True)
    except grpc.RpcError as error:
        print(error.code().name, flush=True)
"""
"""A client that sends an event for each line it is told, and prints what it hears."""


@dataclass
class Place:
    address: str
    process: subprocess.Popen[str]


@asynccontextmanager
async def served(repository: Path, *options: object, first: str = "") -> AsyncIterator[Place]:
    """A server, under the clock of the environment."""
    address = f"127.0.0.1:{free_port()}"
    command = ("serve", "--model", repository, "--no-dead-list", "--listen", address)
    process = xec(*command, "--sessions", 1, *options, first=first)
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert address in line, line or process.communicate()[1]
        yield Place(address, process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


@contextmanager
def streaming(address: str) -> Iterator[subprocess.Popen[str]]:
    """A client with an open stream, under the same clock."""
    told = json.dumps([sys.path, address, SHORT])
    client = subprocess.Popen(
        [sys.executable, "-c", STREAMING, told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


async def heard(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return (await asyncio.to_thread(client.stdout.readline)).strip()


async def answered(client: subprocess.Popen[str]) -> str:
    """What becomes of an event that it sends now."""
    assert client.stdin is not None
    client.stdin.write("\n")
    client.stdin.flush()
    return await heard(client)


async def test_pings_do_not_cut_what_lives(
    stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream outlasts jumps of both clocks, with pings of both sides before and after each."""
    wall = Wall(tmp_path, monkeypatch)
    async with served(stub_repository, first=PINGING) as place:
        with streaming(place.address) as client:
            assert await heard(client) == "opened"
            for jump in JUMPS:
                await asyncio.sleep(2 * PING)
                wall.move(jump)
                await asyncio.sleep(4 * PING)
                assert await answered(client) == "answer", jump
            # The control: these pings do cut a connection whose other end is silent.
            place.process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(10 * PATIENCE):
                assert await heard(client) == "UNAVAILABLE"


async def test_the_control_the_server_pings_too(
    stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes a connection that says nothing."""
    Wall(tmp_path, monkeypatch)
    async with (
        served(stub_repository, first=PINGING) as place,
        connected(place.address, begin=False) as silent,
    ):
        await silent.raw(PREFACE + frame(4, 0, 0))
        async with asyncio.timeout(10 * PATIENCE):
            await silent.reader.read()  # to its end


@dataclass(frozen=True)
class Certificates:
    """Of a server and a client, one of which ends in two days and the other in a month."""

    house: House
    server: Pair
    client: Pair

    def options(self) -> tuple[object, ...]:
        cert, key = self.server.write(self.house.folder, "server")
        return "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", self.house.ca

    def access(self) -> Access:
        return Access(self.house.ca, *self.client.write(self.house.folder, "client"))


def certificates(folder: Path, ends_first: str) -> Certificates:
    house = House(folder)
    days = {"server": 30, "client": 30, ends_first: 2}
    pairs = (issue(name, house.authority, until=NOW + days[name] * DAY) for name in days)
    return Certificates(house, *pairs)


def model_of(client: Client) -> str:
    return client.model(timeout=20).provenance.model_version


async def test_the_servers_clock_passes_the_end_of_a_clients_certificate(
    stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open goes on; what is new is refused in a sentence, and let in once time is right."""
    certified = certificates(tmp_path, "client")
    with monkeypatch.context() as environment:
        wall = Wall(tmp_path, environment)
        async with served(stub_repository, *certified.options()) as place:
            access = certified.access()
            with access.client(place.address, timeout=20) as old:
                assert model_of(old)
                for jump in (3 * DAYS, -10 * DAYS):  # after its end, and before its beginning
                    wall.move(jump)
                    assert model_of(old)
                    with access.client(place.address, timeout=20) as new:
                        with pytest.raises(errors.Unavailable, match="certificate"):
                            model_of(new)
                        wall.move(0)
                        assert model_of(new)


async def test_a_clients_clock_passes_the_end_of_the_servers_certificate(
    stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified = certificates(tmp_path, "server")
    async with served(stub_repository, *certified.options()) as place:  # whose clock is right
        with monkeypatch.context() as environment:
            wall = Wall(tmp_path, environment)
            for jump, status in ((0, 0), (3 * DAYS, 7), (-10 * DAYS, 7), (HOUR, 0)):
                wall.move(jump)
                found, _, said = await asyncio.to_thread(health, place.address, certified.access())
                assert (found, "certificate" in said) == (status, status != 0), (jump, said)


def health(address: str, access: Access) -> tuple[int, str, str]:
    """`xec health` under the clock of the environment."""
    options = ("--server-ca", access.server_ca, "--client-cert", access.client_cert)
    return ended(xec("health", address, *options, "--client-key", access.client_key))
