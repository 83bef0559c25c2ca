"""Certificates of an authority of the test's own, tokens, and what a server registers."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from xec_server.identity.tokens import digest_of, new_token

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        cert.write_bytes(self.cert_pem)
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return cert, key


def issue(
    name: str,
    issuer: Pair | None = None,
    *,
    alternatives: Iterable[str] = (),
    until: datetime = NOW + DAY,
) -> Pair:
    """A certificate; without an issuer an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = _subject(name) if issuer is None else issuer.certificate.subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 5 * DAY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
    )
    names: list[x509.GeneralName] = [x509.DNSName(one) for one in alternatives]
    if issuer is not None and name == "server":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Pair(builder.sign(key if issuer is None else issuer.key, hashes.SHA256()), key)


@dataclass(frozen=True)
class House:
    """An authority, what it signed, and tokens, in a folder."""

    folder: Path
    authority: Pair = field(default_factory=lambda: issue("authority"))

    @property
    def ca(self) -> Path:
        path = self.folder / "ca.pem"
        path.write_bytes(self.authority.cert_pem)
        return path

    def server_files(self) -> tuple[Path, Path]:
        return issue("server", self.authority).write(self.folder, "server")

    @property
    def register(self) -> Path:
        return self.folder / "tokens.json"

    def write_register(
        self, tokens: Iterable[dict[str, Any]], certificates: Iterable[dict[str, Any]] = ()
    ) -> Path:
        document = {
            "format": "xec-identities/1",
            "tokens": list(tokens),
            "certificates": list(certificates),
        }
        self.register.write_text(json.dumps(document))
        self.register.chmod(0o600)
        return self.register

    def token_file(self, token: str, name: str = "token") -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(token + "\n")
        return path


def entry(name: str, *rights: str, **others: str) -> tuple[str, dict[str, Any]]:
    """A token, and what the register holds of it."""
    token = new_token()
    return token, {"name": name, "sha256": digest_of(token), "rights": list(rights), **others}


@contextmanager
def recorded(patch: pytest.MonkeyPatch) -> Iterator[list[set[str]]]:
    """The methods that each gRPC server made inside is given, whoever gives them."""
    servers: list[set[str]] = []
    make = grpc.aio.server

    def making(*arguments: Any, **options: Any) -> Any:
        server = make(*arguments, **options)
        methods: set[str] = set()
        servers.append(methods)
        add, add_generic = server.add_registered_method_handlers, server.add_generic_rpc_handlers

        def adding(service: str, handlers: dict[str, Any]) -> None:
            methods.update(f"/{service}/{name}" for name in handlers)
            add(service, handlers)

        def adding_generic(handlers: Any) -> None:
            # Generated code gives the same methods in both ways; another way would show here.
            methods.update(f"/{handler.service_name()}/" for handler in handlers)
            add_generic(handlers)

        server.add_registered_method_handlers = adding
        server.add_generic_rpc_handlers = adding_generic
        return server

    with patch.context() as patched:
        patched.setattr(grpc.aio, "server", making)
        yield servers


def methods_of(recording: set[str]) -> set[str]:
    """The methods in a recording, after checking that each service named all of its own."""
    services = {name for name in recording if name.endswith("/")}
    methods = recording - services
    assert {f"{method.rpartition('/')[0]}/" for method in methods} == services
    return methods


def outcome(channel: grpc.Channel, method: str, token: str | None = None) -> str:
    """What becomes of a call with one empty message: "passed" once it is let in.

    On the wire a unary call is a stream of one message, so that all kinds are called alike.
    """
    metadata = None if token is None else (("authorization", f"Bearer {token}"),)
    call = channel.stream_stream(method)(iter([b""]), timeout=30, metadata=metadata)
    try:
        next(iter(call), None)
    except grpc.RpcError as error:
        refused = {"UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"}
        name: str = error.code().name
        return name if name in refused else "passed"
    finally:
        call.cancel()
    return "passed"
