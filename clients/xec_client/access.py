"""How a client knows its server and tells who it is: TLS and a bearer token, from files.

Only paths travel to workers in other processes; each reads the secrets for itself.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc

from xec.errors import FileError, UsageError
from xec.io.private import read_private, read_small
from xec_client.bearer import require_token
from xec_client.client import Client
from xec_client.retry import DEFAULT_RETRY, RetryPolicy

VARIABLE: Final = "XEC_TOKEN"


@dataclass(frozen=True, slots=True)
class Access:
    """What it takes to be let in by a server.

    Args:
        server_ca: who signed the server's certificate, PEM; None: unencrypted.
        client_cert: our certificate, PEM, where the server asks for one.
        client_key: its key, PEM.
        token_file: holds the token; None: the variable XEC_TOKEN does, if anything.

    Raises:
        UsageError: half a pair, or a certificate without TLS.
    """

    server_ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.client_cert is None) != (self.client_key is None):
            raise UsageError("--client-cert and --client-key belong together: give both.")
        if self.client_cert is not None and self.server_ca is None:
            raise UsageError("--client-cert needs --server-ca: without TLS nobody looks at it.")

    def __bool__(self) -> bool:
        return self != NO_ACCESS

    def absolute(self) -> Self:
        """The same for a process in another folder."""
        paths = (self.server_ca, self.client_cert, self.client_key, self.token_file)
        return type(self)(*(None if path is None else path.absolute() for path in paths))

    def client(self, server: str, *, timeout: float, retry: RetryPolicy = DEFAULT_RETRY) -> Client:
        """A client that is let in.

        Raises:
            FileError: a file cannot be read, is none of its kind, or others can read a secret.
            UsageError: the token would be sent unencrypted to another machine.
        """
        tls, token = self.credentials(), self.token()
        return Client(server, timeout=timeout, retry=retry, tls=tls, token=token)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For the channel; None: unencrypted.

        Raises:
            FileError: a file cannot be read, is none of its kind, or others can read the key.
        """
        if self.server_ca is None:
            return None
        ca = read_small(self.server_ca)
        context = _trusting(ca, self.server_ca)
        if self.client_cert is None or self.client_key is None:
            return grpc.ssl_channel_credentials(ca)
        key, cert = read_private(self.client_key), read_small(self.client_cert)
        _refuse_no_pair(context, self.client_cert, self.client_key)
        return grpc.ssl_channel_credentials(ca, key, cert)

    def token(self) -> Callable[[], str] | None:
        """What gives the token for each call; None: there is none.

        Raises:
            FileError: the file cannot be read, is empty, or others can read it.
            UsageError: what it holds cannot be a token.
        """
        if self.token_file is not None:
            return _FromFile(self.token_file).get
        value = os.environ.get(VARIABLE, "").strip()
        if not value:
            return None
        require_token(value, VARIABLE)
        return lambda: value


NO_ACCESS: Final = Access()


class _FromFile:
    """A token in a file, read again for each call: a new one counts without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = self._read()

    def _read(self) -> str:
        text = read_private(self._path).decode("ascii", errors="replace").strip()
        return require_token(text, str(self._path))

    def get(self) -> str:
        """The token; the last good one while the file is being replaced."""
        with suppress(FileError, UsageError):
            self._token = self._read()
        return self._token


def _trusting(pem: bytes, path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FileError(f"{path} holds no certificate in PEM.") from error
    return context


def _refuse_no_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    try:
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        raise FileError(
            f"{cert} and {key} are no certificate in PEM and the unencrypted key to it."
        ) from error
