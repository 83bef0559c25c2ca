"""Where to listen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self

from xec.errors import UsageError

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 lets the system choose one."""

    host: str = "127.0.0.1"
    port: int = 50051

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``HOST:PORT``; an IPv6 host stands in brackets.

        Raises:
            UsageError: the text has another form.
        """
        host, colon, port = text.rpartition(":")
        if not (colon and host and port.isdecimal() and int(port) <= _MAX_PORT):
            raise UsageError(f"{text!r} is no address to listen on: write HOST:PORT.")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
