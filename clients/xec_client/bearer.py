"""The bearer token that goes with each call, and never unencrypted to another machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Final

from xec.errors import UsageError

Token = str | Callable[[], str]
"""A bearer token, or what gives the one of the moment for each call."""

_KEY: Final = "authorization"
_FIRST_PRINTED: Final = "!"
_LAST_PRINTED: Final = "~"


class Bearer:
    """Gives the token of each call of a client.

    Args:
        server: address, ``host:port``, or several separated by commas.
        token: of the client, if it has one.
        encrypted: whether the connections are.

    Raises:
        UsageError: the token would be sent unencrypted to another machine, or cannot be one.
    """

    def __init__(self, server: str, token: Token | None, encrypted: bool) -> None:
        hosts = [address.strip().rpartition(":")[0] for address in server.split(",")]
        if token is not None and not (encrypted or all(map(_is_loopback, hosts))):
            raise UsageError(
                f"A token is not sent unencrypted to another machine ({server}): use TLS, by "
                "--server-ca."
            )
        self._token = require_token(token, "The token") if isinstance(token, str) else token

    def on(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A method of a channel that sends the token with each of its calls.

        Args:
            call: takes `metadata`, as those of gRPC do.
        """

        def with_token(*arguments: Any, metadata: Any = None, **options: Any) -> Any:
            sent = (*(metadata or ()), *self._metadata()) or None
            return call(*arguments, metadata=sent, **options)

        return with_token

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        if self._token is None:
            return ()
        token = self._token if isinstance(self._token, str) else self._token()
        return ((_KEY, f"Bearer {token}"),)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
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
