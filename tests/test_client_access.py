"""What clients send to be let in, and what they refuse to send."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from support_client import Ask, ask_awaiting, ask_blocking, real_server
from support_identity import House, entry, issue
from xec.errors import FileError, UsageError
from xec.event import Event
from xec_client import AsyncClient, Client
from xec_client.access import NO_ACCESS, Access
from xec_client.bearer import bearer
from xec_client.errors import AccessDenied
from xec_client.places import NOTHING_DEAD, Remote, Work
from xec_client.reprocess.job import Job
from xec_server.identity.identity import open_identity


@dataclass(frozen=True)
class Place:
    house: House
    address: str
    token: str
    access: Access

    @property
    def tls(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.house.authority.cert_pem)


@pytest.fixture(scope="module")
def place(stub_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    house = House(tmp_path_factory.mktemp("access"))
    token, kept = entry("daq", "reconstruct", "info")
    register = house.write_register([kept])
    identity = open_identity(*house.server_files(), tokens=register)
    with real_server(stub_repository, identity=identity) as address:
        access = Access(house.ca, token_file=house.token_file(token))
        yield Place(house, address, token, access)


@pytest.mark.parametrize("ask", [ask_blocking, ask_awaiting])
def test_every_call_carries_the_token(place: Place, ask: Ask) -> None:
    known = {"tls": place.tls, "token": place.token}
    event = _event()
    assert ask(place.address, "model", **known).contract_version
    assert ask(place.address, "reconstruct", event, NOTHING_DEAD, **known).event == event.event
    for wrong in (None, place.token + "x"):
        for method, arguments in (("model", ()), ("reconstruct", (event, NOTHING_DEAD))):
            with pytest.raises(AccessDenied, match="asks who you are") as caught:
                ask(place.address, method, *arguments, tls=place.tls, token=wrong)
            assert caught.value.exit_code == 11
            assert caught.value.reason == "UNAUTHENTICATED"


async def test_streams_carry_the_token(place: Place) -> None:
    event = _event()
    with Client(place.address, tls=place.tls, token=place.token) as client:
        (answer,) = client.stream([event], NOTHING_DEAD)
        assert answer.result().event == event.event
    async with AsyncClient(place.address, tls=place.tls, token=place.token) as other:
        (answer,) = [one async for one in other.stream([event], NOTHING_DEAD)]
        assert answer.result().event == event.event
    async with AsyncClient(place.address, tls=place.tls) as stranger:
        with pytest.raises(AccessDenied):
            [one async for one in stranger.stream([event], NOTHING_DEAD)]


def test_a_token_goes_unencrypted_to_no_other_machine() -> None:
    for server in ("127.0.0.1:1", "[::1]:1", "localhost:1"):
        Client(server, token="xec_t").close()
    for server in ("10.0.0.1:1", "meg:1", "[fe80::1]:1", "localhost.example.org:1"):
        with pytest.raises(UsageError, match="not sent unencrypted") as caught:
            Client(server, token="xec_t")
        assert "xec_t" not in str(caught.value)
        Client(server, token="xec_t", tls=grpc.ssl_channel_credentials()).close()


def test_of_several_servers_none_may_be_another_machine() -> None:
    bearer(("127.0.0.1:1", "[::1]:2"), "xec_t", encrypted=False)
    for servers in (("127.0.0.1:1", "10.0.0.1:1"), ("10.0.0.1:1", "127.0.0.1:1")):
        with pytest.raises(UsageError, match="not sent unencrypted"):
            bearer(servers, "xec_t", encrypted=False)


@pytest.mark.parametrize("token", ["", "xec a", "xec\n", "xec\x00", "xecä"])
def test_what_cannot_be_a_token_is_refused_without_being_told(token: str) -> None:
    with pytest.raises(UsageError, match="holds no token") as caught:
        Client("127.0.0.1:1", token=token)
    assert not token or token not in str(caught.value)


def test_the_token_is_read_again_for_each_call(place: Place, tmp_path: Path) -> None:
    """A forwarder that runs for months gets its new token without a restart."""
    house = House(tmp_path, place.house.authority)
    path = house.token_file("xec_old")
    access = Access(place.access.server_ca, token_file=path)
    with access.client(place.address, timeout=30) as client:
        with pytest.raises(AccessDenied):
            client.model()
        os.replace(house.token_file(place.token, "new"), path)  # noqa: PTH105
        client.model()
        path.unlink()  # the last good one, while there is none
        client.model()


def test_the_variable_and_the_file(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = Access(place.access.server_ca)
    monkeypatch.delenv("XEC_TOKEN", raising=False)
    assert without.token() is None
    monkeypatch.setenv("XEC_TOKEN", place.token + "\n")
    with without.client(place.address, timeout=30) as client:
        client.model()
    monkeypatch.setenv("XEC_TOKEN", "xec_wrong")
    with place.access.client(place.address, timeout=30) as client:
        client.model()  # the file counts
    monkeypatch.setenv("XEC_TOKEN", "two words")
    with pytest.raises(UsageError, match="XEC_TOKEN holds no token"):
        without.token()


def test_a_place_is_let_in_and_carries_paths_only(place: Place, tmp_path: Path) -> None:
    """As it travels to Dask's workers."""
    remote = Remote(place.address, 10, place.access)
    travelling = pickle.dumps(remote)
    assert place.token.encode() not in travelling
    assert pickle.loads(travelling) == remote
    assert Job((), tmp_path, remote).recipe().engine == "server onnx"
    with remote.open() as backend:
        from conftest import random_events

        assert len(backend.reconstruct(Work(random_events(2), NOTHING_DEAD))) == 2
    with pytest.raises(AccessDenied):
        Job((), tmp_path, Remote(place.address, 10, Access(place.access.server_ca))).recipe()


def test_options_that_belong_together() -> None:
    with pytest.raises(UsageError, match="belong together"):
        Access(client_cert=Path("a"))
    with pytest.raises(UsageError, match="needs --server-ca"):
        Access(client_cert=Path("a"), client_key=Path("b"))
    assert not NO_ACCESS
    assert Access(Path("ca.pem")).absolute().server_ca == Path.cwd() / "ca.pem"


def test_unfit_files_are_refused(place: Place, tmp_path: Path) -> None:
    house = House(tmp_path)
    cert, key = issue("daq", house.authority).write(tmp_path, "client")
    assert Access(house.ca, cert, key).credentials() is not None  # the control
    other = issue("daq", house.authority).write(tmp_path, "other")[1]
    shared = house.token_file("xec_t")
    shared.chmod(0o644)
    empty = house.token_file("", "empty")
    with pytest.raises(FileError, match="the unencrypted key to it"):
        Access(house.ca, cert, other).credentials()
    with pytest.raises(FileError, match="holds no certificate"):
        Access(key).credentials()
    with pytest.raises(FileError, match="cannot be read"):
        Access(tmp_path / "none").credentials()
    with pytest.raises(FileError, match="others can read or write it"):
        Access(token_file=shared).token()
    with pytest.raises(UsageError, match="empty holds no token"):
        Access(token_file=empty).token()


def _event() -> Event:
    from conftest import random_events

    return next(iter(random_events(1)))
