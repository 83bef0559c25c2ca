"""TLS of the server: which files it refuses, what it speaks, and certificates that are renewed."""

from __future__ import annotations

import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from support_client import real_server
from support_identity import DAY, NOW, House, Pair, issue
from support_server import running
from xec.errors import FileError, UsageError
from xec.io.private import read_private
from xec_client import Client
from xec_client.errors import Unavailable
from xec_server.address import Address
from xec_server.identity import watched
from xec_server.identity.identity import Identity, open_identity
from xec_server.identity.tls import TlsFiles, checked_configuration
from xec_server.settings import ServerSettings


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def _other_key(house: House, cert: Path, key: Path) -> None:
    other = issue("server", house.authority).write(house.folder, "other")[1]
    key.write_bytes(other.read_bytes())


def _expired(house: House, cert: Path, key: Path) -> None:
    issue("server", house.authority, until=NOW - DAY).write(house.folder, "server")


def _encrypted(house: House, cert: Path, key: Path) -> None:
    pair = issue("server", house.authority)
    cert.write_bytes(pair.cert_pem)
    key.write_bytes(
        pair.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


UNFIT: dict[str, tuple[Callable[[House, Path, Path], object], str]] = {
    "another key": (_other_key, "is not the key of the certificate"),
    "expired": (_expired, "no certificate that clients accept today: certificate has expired"),
    "encrypted key": (_encrypted, "unencrypted key|without a password"),
    "key for all": (
        lambda house, cert, key: key.chmod(0o644),
        "others can read or write it: chmod",
    ),
    "key to write": (lambda house, cert, key: key.chmod(0o660), "others can read or write it"),
    "no certificate": (lambda house, cert, key: cert.unlink(), "cannot be read: No such file"),
    "no key": (lambda house, cert, key: key.unlink(), "cannot be read: No such file"),
    "a folder": (lambda house, cert, key: (key.unlink(), key.mkdir()), "cannot be read"),
    "rubbish": (
        lambda house, cert, key: cert.write_text("x"),
        "no certificate and unencrypted key",
    ),
    "empty": (lambda house, cert, key: cert.write_text(""), "no certificate and unencrypted key"),
    "huge": (lambda house, cert, key: cert.write_bytes(bytes(2 << 20)), "more than 1 MiB"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_unfit_files_are_refused_in_a_sentence(house: House, case: str) -> None:
    spoil, sentence = UNFIT[case]
    cert, key = house.server_files()
    checked_configuration(TlsFiles(cert, key))  # the control
    spoil(house, cert, key)
    with pytest.raises(FileError, match=sentence) as caught:
        checked_configuration(TlsFiles(cert, key))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x", "ä".encode()])
def test_an_unfit_authority_is_refused(house: House, content: bytes) -> None:
    ca = house.ca
    ca.write_bytes(content)
    with pytest.raises(FileError, match=r"ca\.pem holds no certificate in PEM"):
        open_identity(*house.server_files(), ca)


def test_half_a_pair_is_refused(house: House) -> None:
    cert, key = house.server_files()
    for given in ((cert, None), (None, key)):
        with pytest.raises(UsageError, match="belong together"):
            open_identity(*given)
    with pytest.raises(UsageError, match="needs --tls-cert"):
        open_identity(client_ca=cert)


def test_the_group_may_read_what_belongs_to_root(house: House) -> None:
    """As the system hands keys to a service; a group that may write is none of that."""
    _, key = house.server_files()
    key.chmod(0o640)
    if key.stat().st_uid == 0:
        assert read_private(key)
    else:
        with pytest.raises(FileError, match="chmod 600"):
            read_private(key)


def test_beyond_loopback_needs_tls_or_a_word(house: House) -> None:
    beyond = Address("0.0.0.0", 1)
    with pytest.raises(UsageError, match="--tls-cert and --tls-key"):
        ServerSettings(beyond)
    assert ServerSettings(beyond, insecure_listen=True).is_exposed
    encrypted = open_identity(*house.server_files())
    assert not ServerSettings(beyond, identity=encrypted).is_exposed
    assert not ServerSettings().is_exposed


def test_certificates_are_renewed_without_a_restart(
    house: House, stub_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half of a new pair changes nothing; both halves count from the next connection on."""
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0.0)
    cert, key = house.server_files()
    new = issue("server", issue("another authority"))
    with real_server(stub_repository, identity=open_identity(cert, key)) as address:
        host, port = address.split(":")

        def shown() -> bytes:
            return ssl.get_server_certificate((host, int(port))).encode()

        first = shown()
        assert first == cert.read_bytes()
        tls = grpc.ssl_channel_credentials(house.authority.cert_pem)
        with Client(address, tls=tls) as client:
            client.wait_ready(10)
            cert.write_bytes(new.cert_pem)
            assert shown() == first
            key.write_bytes(new.key_pem)
            assert shown() == new.cert_pem
            client.model()  # on the connection that it has
        with Client(address, tls=tls) as client, pytest.raises(Unavailable):
            client.wait_ready(1)


def _handshake(house: House, address: tuple[str, int], version: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=house.authority.cert_pem.decode())
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    _speak(context, version, version)
    with socket.create_connection(address, 10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as connection:
                return connection.version()
        except (ssl.SSLError, OSError):
            return None


def _speak(context: ssl.SSLContext, first: ssl.TLSVersion, last: ssl.TLSVersion) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what this is about
        context.minimum_version, context.maximum_version = first, last


def _old_server(pair: Pair, folder: Path) -> tuple[socket.socket, threading.Thread]:
    """One that still speaks TLS 1.1, to show that the client could."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.write(folder, "old"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    _speak(context, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_3)
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        raw, _ = listening.accept()
        with suppress(OSError), context.wrap_socket(raw, server_side=True) as connection:
            connection.recv(1)

    thread = threading.Thread(target=answer)
    thread.start()
    return listening, thread


def test_tls_begins_with_1_2(house: House, stub_repository: Path) -> None:
    versions = [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
    identity = open_identity(*house.server_files())
    with real_server(stub_repository, identity=identity) as address:
        host, port = address.split(":")
        spoken = [_handshake(house, (host, int(port)), version) for version in versions]
    assert spoken == [None, "TLSv1.2", "TLSv1.3"]
    listening, thread = _old_server(issue("server", house.authority), house.folder)
    with listening:
        assert _handshake(house, listening.getsockname(), versions[0]) == "TLSv1.1"
    thread.join(10)


def test_by_default_nothing_is_asked() -> None:
    assert Identity().credentials is None


async def test_listening_in_clear_beyond_loopback_is_told(
    stub_repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for host, told in (("127.0.0.1", False), ("0.0.0.0", True)):
        caplog.clear()
        settings = ServerSettings(Address(host, 0), insecure_listen=True, grace=0)
        async with running(stub_repository, settings=settings):
            pass
        warned = "is open to other machines, and nothing is encrypted" in caplog.text
        assert warned is told
