"""Where a client's servers are: one address, or several that answer alike.

With several, gRPC connects to all of them, watches the health of each and gives calls in turns to
those that serve. One that drains says so first, and gets no new calls.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from typing import Final

from xec.errors import UsageError
from xec_client.settings import CHANNEL_OPTIONS, SERVICE, addresses_of

_BALANCED: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": SERVICE},
    }
)
Options = tuple[tuple[str, int | str], ...]


def target_of(server: str) -> str:
    """What gRPC calls the servers; the names of several are looked up here and now.

    Args:
        server: ``host:port``, or several separated by commas.

    Raises:
        UsageError: a host is not known, or some are reached by IPv4 and some by IPv6.
    """
    addresses = addresses_of(server)
    if len(addresses) == 1:
        return addresses[0]
    known = [_numeric(address) for address in addresses]
    versions = {version for version, _ in known}
    if len(versions) > 1:
        raise UsageError(
            f"Of the servers {server} some have an IPv4 address and some an IPv6 one: give "
            "addresses of one kind."
        )
    return f"ipv{versions.pop()}:" + ",".join(text for _, text in known)


def options_for(server: str) -> Options:
    """The channel's options for these servers."""
    addresses = addresses_of(server)
    if len(addresses) == 1:
        return CHANNEL_OPTIONS
    return (
        *CHANNEL_OPTIONS,
        ("grpc.service_config", _BALANCED),
        # What a certificate must be for: the name of the first, for all of them.
        ("grpc.default_authority", addresses[0]),
    )


def _numeric(address: str) -> tuple[int, str]:
    """The version of the internet protocol, and the address in numbers."""
    host, _, port = address.rpartition(":")
    try:
        number = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        number = ipaddress.ip_address(_looked_up(host))
    return number.version, f"[{number}]:{port}" if number.version == 6 else f"{number}:{port}"


def _looked_up(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"The host {host} is not known: correct the server's address.") from error
    by_version = sorted(found, key=lambda one: one[0] != socket.AF_INET)
    return str(by_version[0][4][0])
