"""Settings of a client and of its gRPC channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xec.errors import UsageError
from xec.wire.limits import MAX_EVENTS_PER_BATCH, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from xec_client.retry import DEFAULT_RETRY, RetryPolicy

SERVICE: Final = "xec.v1.Reconstruction"

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for one request, its retries included."""

LONGEST_TIMEOUT: Final = 86_400.0
"""Seconds; what never ends is no deadline, and gRPC takes what its clock cannot hold for 0."""

_MAX_PORT: Final = 65_535

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # A dead peer or a half-open connection is noticed within 40 s, not after hours.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # or else 60 s, whatever the line before says
    # Clients of one process would share a connection, and with it its turns and limits.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries connect anew, and a server that was long away is found within 5 s, not 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # One layer retries: ours.
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
)


_OPTIONS_OF_SEVERAL: Final = tuple(
    # One that comes back is found before the next one goes, see docs/operations.md.
    (name, 1_000 if name == "grpc.max_reconnect_backoff_ms" else value)
    for name, value in CHANNEL_OPTIONS
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client talks to its server, or to several that answer alike.

    Args:
        server: address, ``host:port``, or several separated by commas.
        timeout: seconds for one request, its retries included.
        retry: when a failed call is tried again.
        encrypted: whether connections speak TLS.
        max_request_bytes: what the server receives at most.
        max_events: events that the server takes at most in one request.

    Raises:
        UsageError: a value makes no sense.
    """

    server: str
    timeout: float = DEFAULT_TIMEOUT
    retry: RetryPolicy = DEFAULT_RETRY
    encrypted: bool = False
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_events: int = MAX_EVENTS_PER_BATCH

    def __post_init__(self) -> None:
        addresses_of(self.server)
        require_timeout(self.timeout)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of each server."""
        return addresses_of(self.server)

    @property
    def channel_options(self) -> tuple[tuple[str, int], ...]:
        """Of the connection to each server."""
        return CHANNEL_OPTIONS if len(self.addresses) == 1 else _OPTIONS_OF_SEVERAL


def addresses_of(server: str) -> tuple[str, ...]:
    """The addresses in a text.

    Args:
        server: ``host:port``, or several separated by commas.

    Raises:
        UsageError: one is none.
    """
    addresses = tuple(one.strip() for one in server.split(","))
    for address in addresses:
        _require_address(address)
    return addresses


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
