"""The gate on a real connection: names, codes, and calls that end when their caller may no more."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from support_identity import NOW, House, entry, issue
from support_server import details
from xec.errors import FileError
from xec_server.calls.call import current_caller
from xec_server.calls.guard import Guard
from xec_server.calls.refusal import Reason
from xec_server.identity import gate as gate_module
from xec_server.identity import watched as watched_module
from xec_server.identity.credentials import is_local
from xec_server.identity.gate import IdentityGate
from xec_server.identity.identity import open_identity, read_register
from xec_server.identity.register import Register
from xec_server.identity.watched import Watched

Code = grpc.StatusCode
GET_MODEL = "/xec.v1.Reconstruction/GetModel"
STREAM = "/xec.v1.Reconstruction/ReconstructStream"
DRAIN = "/xec.v1.Admin/Drain"


async def _tell(content: bytes, context: Any) -> bytes:
    return current_caller(context).encode()


async def _echo(contents: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for content in contents:
        yield content


@asynccontextmanager
async def guarded(
    gate: Any, credentials: grpc.ServerCredentials | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[str]:
    """A server whose unary methods tell who calls, and whose stream repeats."""
    server = grpc.aio.server(interceptors=(Guard((gate,)),), options=[("grpc.so_reuseport", 0)])
    unary = grpc.unary_unary_rpc_method_handler(_tell, bytes, bytes)
    stream = grpc.stream_stream_rpc_method_handler(_echo, bytes, bytes)
    services = {
        "xec.v1.Reconstruction": {"GetModel": unary, "ReconstructStream": stream},
        "xec.v1.Admin": {"Drain": unary},
        "xec.v1.New": {"Method": unary},
    }
    handlers = [grpc.method_handlers_generic_handler(*service) for service in services.items()]
    server.add_generic_rpc_handlers(tuple(handlers))
    if credentials is None:
        port = server.add_insecure_port(f"{host}:0")
    else:
        port = server.add_secure_port(f"{host}:0", credentials)
    await server.start()
    try:
        yield f"{host}:{port}"
    finally:
        await server.stop(0)


async def ask(address: str, method: str, *metadata: str, tls: Any = None) -> str:
    """Who the server says that we are, or with which code, reason and sentence it refuses."""
    channel = (
        grpc.aio.insecure_channel(address) if tls is None else grpc.aio.secure_channel(address, tls)
    )
    async with channel:
        sent = tuple(("authorization", value) for value in metadata)
        try:
            answer = await channel.unary_unary(method)(b"", metadata=sent, timeout=30)
        except grpc.aio.AioRpcError as error:
            reason = details(error)["ErrorInfo"].reason
            return f"{error.code().name} {reason} {error.details()}"
    return str(answer.decode())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def gate_of(house: House, now: Callable[[], datetime] | None = None) -> IdentityGate:
    files = Watched((house.register,), lambda: read_register(house.register), "Identities")
    return IdentityGate(files.get) if now is None else IdentityGate(files.get, now)


async def test_a_server_without_names_lets_everybody_do_everything_but_administer() -> None:
    async with guarded(IdentityGate()) as address:
        assert (await ask(address, GET_MODEL)).startswith("ipv4:127.0.0.1:")
        refused = await ask(address, DRAIN)
        assert refused.startswith("PERMISSION_DENIED PERMISSION_DENIED ")
        assert "the right admin" in refused
        # Who shows a token is not asked for it.
        for shown in ("Bearer xec_anything", "Basic eDp5"):
            assert (await ask(address, GET_MODEL, shown)).startswith("ipv4:")


async def test_a_client_certificate_is_a_name_and_no_right_to_administer(house: House) -> None:
    identity = open_identity(*house.server_files(), house.ca)
    pair = issue("shift", house.authority)
    tls = grpc.ssl_channel_credentials(house.authority.cert_pem, pair.key_pem, pair.cert_pem)
    async with guarded(identity.gate, identity.credentials) as address:
        assert await ask(address, GET_MODEL, tls=tls) == "shift"
        assert "the right admin, which shift does not have" in await ask(address, DRAIN, tls=tls)


async def test_the_holder_of_a_token_is_the_caller_whatever_the_connection(house: House) -> None:
    """So turns, streams and metrics are those of a name."""
    one, first = entry("daq", "info", "admin")
    two, second = entry("daq", "info")
    house.write_register([first, second])
    async with guarded(gate_of(house)) as address:
        answers = [
            await ask(address, GET_MODEL, f"Bearer {one}"),
            await ask(address, GET_MODEL, f"bearer {two}"),
            await ask(address, DRAIN, f"Bearer {one}"),
        ]
        assert answers == ["daq"] * 3
        refused = await ask(address, DRAIN, f"Bearer {two}")
    assert refused == (
        "PERMISSION_DENIED PERMISSION_DENIED This call needs the right admin, which daq does not "
        "have here: ask who runs the server."
    )


async def test_a_refusal_does_not_tell_a_wrong_token_from_a_revoked_one(house: House) -> None:
    token, kept = entry("daq", "info")
    expired, old = entry("daq", "info", expires=NOW.isoformat())
    house.write_register([old])
    async with guarded(gate_of(house)) as address:
        wrong = await ask(address, GET_MODEL, "Bearer xec_wrong")
        assert wrong.startswith("UNAUTHENTICATED UNAUTHENTICATED The server does not accept")
        for headers in (
            [f"Bearer {token}"],
            [f"Basic {token}"],
            ["Bearer"],
            ["Bearer "],
            [f"Bearer {kept['sha256']}"],
            [f"Bearer {expired}", f"Bearer {expired}"],
        ):
            assert await ask(address, GET_MODEL, *headers) == wrong
        late = await ask(address, GET_MODEL, f"Bearer {expired}")
        assert late.startswith("UNAUTHENTICATED TOKEN_EXPIRED This token expired on ")
        none = await ask(address, GET_MODEL)
        assert none.startswith("UNAUTHENTICATED UNAUTHENTICATED The server does not know who")


async def test_a_method_that_nobody_classified_is_refused(house: House) -> None:
    token, kept = entry("root", "info", "admin", "reconstruct", "reflection", "health")
    house.write_register([kept])
    async with guarded(gate_of(house)) as address:
        refused = await ask(address, "/xec.v1.New/Method", f"Bearer {token}")
        assert refused.startswith("PERMISSION_DENIED PERMISSION_DENIED Nobody may call")
    async with guarded(IdentityGate()) as address:
        assert (await ask(address, "/xec.v1.New/Method")).startswith("PERMISSION_DENIED")


def _own_address() -> str | None:
    """Of this machine, beyond loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        host = str(probe.getsockname()[0])
    return None if host.startswith("127.") else host


async def test_a_token_in_clear_from_another_machine_is_refused(house: House) -> None:
    host = _own_address()
    if host is None:
        pytest.skip("this machine has the loopback interface only")
    token, kept = entry("daq", "info")
    house.write_register([kept])
    async with guarded(gate_of(house), host=host) as address:
        refused = await ask(address, GET_MODEL, f"Bearer {token}")
        assert refused.startswith("UNAUTHENTICATED TOKEN_IN_CLEAR A token that comes unencrypted")
    async with guarded(gate_of(house)) as address:
        assert await ask(address, GET_MODEL, f"Bearer {token}") == "daq"


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:40000", True),
        ("ipv4:127.8.8.8:1", True),
        ("ipv6:[::1]:40000", True),
        ("ipv6:%5B::1%5D:40000", True),
        ("ipv6:[::ffff:127.0.0.1]:1", True),
        ("unix:", True),
        ("ipv4:10.0.0.1:40000", False),
        ("ipv6:[fe80::1%25eth0]:1", False),
        ("ipv6:[::ffff:10.0.0.1]:1", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_what_is_a_peer_of_this_machine(peer: str, local: bool) -> None:
    assert is_local(peer) is local


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds between two looks, at the calls and at the file."""
    monkeypatch.setattr(gate_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watched_module, "LOOK_SECONDS", 0.05)
    return 0.05


def _replace_register(house: House, *kept: Any) -> None:
    new = House(house.folder / "new")
    new.folder.mkdir(exist_ok=True)
    os.replace(new.write_register(kept), house.register)  # noqa: PTH105


async def _opened(channel: grpc.aio.Channel, token: str) -> Any:
    call = channel.stream_stream(STREAM)(metadata=(("authorization", f"Bearer {token}"),))
    await call.write(b"first")
    assert await call.read() == b"first"
    return call


async def _ended(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 20)
    return caught.value


async def test_open_streams_end_when_their_token_is_revoked(house: House, soon: float) -> None:
    token, kept = entry("daq", "reconstruct")
    other, stays = entry("offline", "reconstruct")
    house.write_register([kept, stays])
    async with (
        guarded(gate_of(house)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        revoked, goes_on = await _opened(channel, token), await _opened(channel, other)
        await asyncio.sleep(4 * soon)
        await revoked.write(b"second")  # nothing changed, nothing ended
        assert await revoked.read() == b"second"
        _replace_register(house, stays)
        error = await _ended(revoked)
        assert (error.code(), details(error)["ErrorInfo"].reason) == (
            Code.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
        await goes_on.write(b"third")
        assert await goes_on.read() == b"third"
        _replace_register(house, {**stays, "rights": ["info"]})
        error = await _ended(goes_on)
        assert error.code() is Code.PERMISSION_DENIED


async def test_open_streams_end_when_their_token_expires(house: House, soon: float) -> None:
    token, kept = entry("daq", "reconstruct", expires=(NOW + timedelta(days=1)).isoformat())
    house.write_register([kept])
    time = [NOW]
    async with (
        guarded(gate_of(house, lambda: time[0])) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = await _opened(channel, token)
        time[0] += timedelta(days=2)
        error = await _ended(call)
        assert details(error)["ErrorInfo"].reason == Reason.TOKEN_EXPIRED.upper()


async def test_calls_that_end_are_forgotten(house: House, soon: float) -> None:
    token, kept = entry("daq", "reconstruct", "info")
    house.write_register([kept])
    gate = gate_of(house)
    async with guarded(gate) as address, grpc.aio.insecure_channel(address) as channel:
        call = await _opened(channel, token)
        for _ in range(20):
            assert await ask(address, GET_MODEL, f"Bearer {token}") == "daq"
        assert len(gate._open) == 1
        call.cancel()
        async with asyncio.timeout(20):
            while gate._open or gate._look is not None:
                await asyncio.sleep(soon)


def test_a_broken_register_changes_nothing_and_is_told_once(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    token, kept = entry("daq", "info")
    house.write_register([kept])
    seconds = [0.0]
    reads = []

    def read() -> Register:
        reads.append(seconds[0])
        return read_register(house.register)

    files = Watched((house.register,), read, "Identities", lambda: seconds[0])
    good = files.get()
    for broken in ("", "{", token, '{"format": "xec-identities/1", "tokens": [{}]}'):
        house.register.write_text(broken)
        with caplog.at_level(logging.INFO):
            for _ in range(50):
                seconds[0] += 0.5
                assert files.get() is good
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert token not in caplog.text
        caplog.clear()
    house.register.unlink()
    seconds[0] += 2
    assert files.get() is good
    assert len(reads) == 6, "a file is read when it has changed, and not otherwise"
    house.write_register([])
    seconds[0] += 2
    assert files.get() == Register()


def test_a_register_is_looked_at_once_a_second_whatever_is_called(house: House) -> None:
    house.write_register([])
    seconds = [0.0]
    files = Watched(
        (house.register,), lambda: read_register(house.register), "x", lambda: seconds[0]
    )
    _, kept = entry("daq", "info")
    house.write_register([kept])
    for _ in range(99):
        seconds[0] += 0.01
        assert files.get() == Register()
    seconds[0] += 0.02
    assert files.get().tokens


def test_a_register_that_others_can_write_is_refused(house: House) -> None:
    house.write_register([])
    house.register.chmod(0o664)
    with pytest.raises(FileError, match="chmod go-w"):
        read_register(house.register)
