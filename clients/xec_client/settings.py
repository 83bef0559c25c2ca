"""Settings of a client and of its gRPC channel."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from xec.errors import UsageError
from xec.wire.limits import MAX_EVENTS_PER_BATCH, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from xec_client.retry import DEFAULT_RETRY, RetryPolicy

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for one request, its retries included."""

LONGEST_TIMEOUT: Final = 86_400.0
"""Seconds; what never ends is no deadline, and gRPC takes what its clock cannot hold for 0."""

_MAX_PORT: Final = 65_535

Metadata = tuple[tuple[str, str], ...]
_AUTHORIZATION: Final = "authorization"
_FIRST_PRINTED: Final = "!"
_LAST_PRINTED: Final = "~"

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # A dead peer or a half-open connection is noticed within 40 s, not after hours.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Retries connect anew, and a server that was long away is found within 5 s, not 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # One layer retries: ours.
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client talks to one server.

    Args:
        server: address, ``host:port``.
        timeout: seconds for one request, its retries included.
        retry: when a failed call is tried again.
        max_request_bytes: what the server receives at most.
        max_events: events that the server takes at most in one request.

    Raises:
        UsageError: a value makes no sense.
    """

    server: str
    timeout: float = DEFAULT_TIMEOUT
    retry: RetryPolicy = DEFAULT_RETRY
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_events: int = MAX_EVENTS_PER_BATCH

    def __post_init__(self) -> None:
        _require_address(self.server)
        require_timeout(self.timeout)


Token = str | Callable[[], str]
"""A bearer token, or what gives the one of the moment for each call."""


def bearer(server: str, token: Token | None, encrypted: bool) -> Callable[[], Metadata | None]:
    """What gives the metadata of each call.

    Args:
        server: address, ``host:port``.
        token: of the client, if it has one.
        encrypted: whether the channel is.

    Raises:
        UsageError: the token would be sent unencrypted to another machine, or cannot be one.
    """
    if token is None:
        return lambda: None
    if not (encrypted or _is_loopback(server.rpartition(":")[0].strip("[]"))):
        raise UsageError(
            f"A token is not sent unencrypted to another machine ({server}): use TLS, by "
            "--server-ca."
        )
    give = token if callable(token) else _constant(require_token(token, "The token"))
    return lambda: ((_AUTHORIZATION, f"Bearer {give()}"),)


def _constant(token: str) -> Callable[[], str]:
    return lambda: token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_token(text: str, where: str) -> str:
    """The text, if it can travel as a token.

    Args:
        text: never part of a message.
        where: it is from.

    Raises:
        UsageError: it is empty, or has spaces or other than ASCII characters.
    """
    if not text or not all(_FIRST_PRINTED <= char <= _LAST_PRINTED for char in text):
        raise UsageError(f"{where} holds no token: one line, as xec tokens new prints it.")
    return text


def _require_address(server: str) -> None:
    """Refuse what gRPC would take modulo 65536, and so ask another server."""
    host, _, port = server.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) <= _MAX_PORT):
        raise UsageError(
            f"{server!r} is no server's address: write HOST:PORT, such as 127.0.0.1:50051."
        )


def require_timeout(timeout: float) -> float:
    """The seconds, if they are a deadline.

    Raises:
        UsageError: they are not positive, or more than a day: every call has a deadline.
    """
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise UsageError(
            f"A timeout is a positive number of seconds up to {LONGEST_TIMEOUT:.0f}, "
            f"not {timeout:g}."
        )
    return timeout
