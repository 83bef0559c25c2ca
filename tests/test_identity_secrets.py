"""No secret is where others can read it: logs at every level, errors, arguments, the schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support_daq import wait_until, xec
from support_identity import House, entry
from xec.event import Event
from xec_client import Client
from xec_client.errors import AccessDenied, Unavailable
from xec_client.places import NOTHING_DEAD
from xec_client.retry import NO_RETRY
from xec_server.app import SERVICE

PASSWORD = "correct-horse-battery"
VERBOSE = "import logging\nlogging.basicConfig(level=logging.DEBUG)\n"
LEAK = (
    VERBOSE
    + """
from xec_server.identity import credentials
own = credentials._token
def leaking(context):
    logging.getLogger("xec_server.leak").debug("%s", context.invocation_metadata())
    return own(context)
credentials._token = leaking
"""
)


@dataclass
class Watched:
    """A server as a process, and all that it says."""

    house: House
    token: str
    address: str
    process: int
    log: Path

    @property
    def secrets(self) -> dict[str, str]:
        key = (self.house.folder / "server.key").read_text().splitlines()[1]
        return {"token": self.token, "key": key, "password": PASSWORD}

    def told(self) -> str:
        return self.log.read_text(errors="replace")


def leaked(secrets: dict[str, str], text: str) -> set[str]:
    """Which secrets a text gives away; a part of one is one."""
    return {name for name, secret in secrets.items() if secret[5:25] in text}


@contextmanager
def watched(folder: Path, repository: Path, first: str) -> Iterator[Watched]:
    house = House(folder)
    token, kept = entry("daq", "reconstruct", "info", "reflection")
    cert, key = house.server_files()
    ready, log = folder / "ready", folder / "log"
    arguments = ["serve", "--model", repository, "--listen", "127.0.0.1:0", "--tag", "online"]
    arguments += ["--tls-cert", cert, "--tls-key", key, "--ready-file", ready]
    arguments += ["--tokens", house.write_register([kept]), "--sessions", 1, "--grace", 0.1]
    arguments += ["--metrics", 0, "--log-level", "debug"]
    url = f"postgresql://xec:{PASSWORD}@127.0.0.1:1/xec"
    with log.open("w") as file:
        process = xec(
            *arguments,
            first=first,
            output=file,
            GRPC_VERBOSITY="DEBUG",
            XEC_CONDITIONS_DATABASE=url,
        )
        try:
            wait_until(lambda: ready.exists() or process.poll() is not None)
            assert ready.exists(), log.read_text()
            yield Watched(house, token, ready.read_text().strip(), process.pid, log)
        finally:
            process.terminate()
            process.wait(60)


def reflected(channel: grpc.Channel, token: str) -> str:
    """All that reflection tells."""
    request = reflection_pb2.ServerReflectionRequest
    asked = [request(list_services=""), request(file_containing_symbol=SERVICE)]
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    metadata = (("authorization", f"Bearer {token}"),)
    answers = stub.ServerReflectionInfo(iter(asked), metadata=metadata, timeout=30)
    return "".join(repr(answer.SerializeToString()) for answer in answers)


def metrics_of(server: Watched) -> str:
    """The page for Prometheus, whose address is in the log."""
    (url,) = set(re.findall(r"metrics are at (http://127\.0\.0\.1:\d+/metrics)", server.told()))
    with urlopen(url, timeout=30) as page:
        text: str = page.read().decode()
    assert 'client="daq"' in text
    return text


def provoked(server: Watched, event: Event) -> str:
    """What clients are told, by answers and by every kind of refusal."""
    ca = server.house.authority.cert_pem
    tls = grpc.ssl_channel_credentials(ca)
    told = []
    with Client(server.address, tls=tls, token=server.token, retry=NO_RETRY) as client:
        client.reconstruct(event, NOTHING_DEAD)
        with pytest.raises(Unavailable, match="conditions") as away:
            client.reconstruct(event)  # by a database that is not there
        told.append(str(away.value))
        told.append(str(client.model()))
    for wrong in (server.token + "x", server.token[:-1], None):
        with Client(server.address, tls=tls, token=wrong) as client:
            for ask in (client.model, lambda: list(client.stream([event]))):
                with pytest.raises(AccessDenied) as caught:
                    ask()
                cause = caught.value.__cause__
                told += [str(caught.value), repr(cause)]
    with grpc.insecure_channel(server.address) as channel, suppress(grpc.RpcError):
        channel.unary_unary(f"/{SERVICE}/GetModel")(
            b"", timeout=2, metadata=(("authorization", f"Bearer {server.token}"),)
        )
    with grpc.secure_channel(server.address, tls) as channel:
        told.append(reflected(channel, server.token))
    told.append(metrics_of(server))
    return "\n".join(told)


def test_no_secret_is_told(stub_repository: Path, tmp_path: Path) -> None:
    event = _event()
    with watched(tmp_path, stub_repository, VERBOSE) as server:
        answers = provoked(server, event)
        arguments = Path(f"/proc/{server.process}/cmdline").read_text()
        environment = Path(f"/proc/{server.process}/environ").read_text()
    assert "DEBUG" in server.told()
    assert "Reconstruction" in answers
    assert leaked(server.secrets, answers) == set()
    assert leaked(server.secrets, arguments) == set()
    assert leaked(server.secrets, server.told()) == set()
    assert leaked(server.secrets, server.house.register.read_text()) == set()
    # Controls: the search finds what is there.
    assert leaked(server.secrets, environment) == {"password"}
    assert leaked(server.secrets, (tmp_path / "server.key").read_text()) == {"key"}


def test_a_token_in_the_log_would_be_seen(stub_repository: Path, tmp_path: Path) -> None:
    with watched(tmp_path, stub_repository, LEAK) as server:
        tls = grpc.ssl_channel_credentials(server.house.authority.cert_pem)
        with Client(server.address, tls=tls, token=server.token) as client:
            client.model()
    assert leaked(server.secrets, server.told()) == {"token"}


def _event() -> Event:
    from conftest import random_events

    return next(iter(random_events(1)))
