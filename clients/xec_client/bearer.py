"""The token by which a client is known, in the metadata of its calls."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from xec.errors import UsageError

Token: TypeAlias = str | Callable[[], str]
"""A bearer token, or what gives the one of the moment for each call."""

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_AUTHORIZATION: Final = "authorization"
_FIRST_PRINTED: Final = "!"
_LAST_PRINTED: Final = "~"


def bearer(
    addresses: Sequence[str], token: Token | None, encrypted: bool
) -> Callable[[], Metadata]:
    """What gives the metadata of each call.

    Args:
        addresses: of the servers, ``host:port`` each.
        token: of the client, if it has one.
        encrypted: whether the channels are.

    Raises:
        UsageError: the token would be sent unencrypted to another machine, or cannot be one.
    """
    if token is None:
        return tuple
    for address in addresses:
        if not (encrypted or _is_loopback(address.rpartition(":")[0].strip("[]"))):
            raise UsageError(
                f"A token is not sent unencrypted to another machine ({address}): use TLS, by "
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
