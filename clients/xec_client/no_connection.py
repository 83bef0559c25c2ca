"""Why no connection came about: what to check, as far as gRPC's chain of causes tells it apart.

A server says nothing before a handshake is over. It is told by its silence, then: gRPC names a
connection that ends so early among the addresses it failed to connect to, and one that breaks
later not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NO_CONNECTION: Final = "failed to connect to all addresses"
_NO_HOST: Final = "DNS resolution failed"
_CLOSED: Final = ("Socket closed", "Connection reset by peer", "Broken pipe")
_TOLD_APART: Final = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "check --server-ca, the dates of the server's certificate and the clock here",
        "its certificate is refused, {last}",
    ),
    (
        "is not in peer certificate",
        "check that it is called by a name in its certificate",
        "the certificate is for other names",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "check the port, and leave --server-ca out where the server has no --tls-cert",
        "what listens there does not speak TLS",
    ),
    ("Ssl handshake failed", "check the certificates", "TLS could not be agreed on, {last}"),
)
"""What a cause contains, what to check then, and what happened."""


@dataclass(frozen=True, slots=True)
class NoConnection:
    """What to check, and what happened; parts of a sentence."""

    advice: str
    cause: str


RUNS: Final = "check that it runs and the address"


def is_no_connection(text: str) -> bool:
    """Whether gRPC says that a connection did not come about."""
    return text.startswith((_NO_CONNECTION, _NO_HOST))


def no_connection(text: str, encrypted: bool) -> NoConnection | None:
    """What gRPC's words for a connection that did not come about mean; None: they are others.

    Args:
        text: details of the status, in one line.
        encrypted: whether the client speaks TLS.
    """
    last = text.rpartition(": ")[2]
    if text.startswith(_NO_HOST):
        return NoConnection(RUNS, f"its host is not known, {last}")
    if not text.startswith(_NO_CONNECTION):
        return None
    for mark, advice, cause in _TOLD_APART:
        if mark in text:
            return NoConnection(advice, cause.format(last=last))
    if not any(closed in text for closed in _CLOSED):
        return NoConnection(RUNS, f"it cannot be connected to, {last}")
    if encrypted:
        return NoConnection(
            "check whether it asks for a certificate (--client-cert), which authority must have "
            "signed it, its dates and the server's clock",
            "it closed the connection before it said anything",
        )
    return NoConnection(
        "check whether it speaks TLS (--server-ca)",
        "it closed the connection before it said anything",
    )
