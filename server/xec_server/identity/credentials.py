"""What a call brings along to prove who calls."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from xec_server.calls.call import Context
from xec_server.calls.refusal import Reason, Refusal
from xec_server.identity.tokens import digest_of

_KEY: Final = "authorization"
_SCHEME: Final = "bearer"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Proofs of a call; the token itself is not kept.

    Args:
        digest: of the token; None where there is none.
        names: in the client certificate that the connection was made with: the alternative names
            of its subject, else the common name; empty without one.
    """

    digest: str | None = None
    names: tuple[str, ...] = ()


def credentials_of(context: Context) -> Credentials:
    """What the call brings along.

    Raises:
        Refusal: a token was sent where others can read it.
    """
    token = _token(context)
    if token is not None and not _is_kept_secret(context):
        raise Refusal(
            Reason.TOKEN_IN_CLEAR,
            "A token that comes unencrypted from another machine is not accepted: use TLS, and "
            "have this token revoked.",
        )
    return Credentials(None if token is None else digest_of(token), _names(context))


def unusable_token() -> Refusal:
    """The same for one that is unknown, wrong or revoked: which one is nobody's business."""
    return Refusal(
        Reason.UNAUTHENTICATED,
        "The server does not accept this token: ask who runs it for another one.",
    )


def _token(context: Context) -> str | None:
    values = [value for key, value in context.invocation_metadata() or () if key == _KEY]
    if not values:
        return None
    scheme, _, token = str(values[0]).partition(" ")
    is_one = len(values) == 1 and scheme.lower() == _SCHEME
    return token if is_one else repr(values)  # which is a token of nobody


def _is_kept_secret(context: Context) -> bool:
    kinds = context.auth_context().get("transport_security_type", ())
    return b"ssl" in kinds or is_local(context.peer())


def is_local(peer: str) -> bool:
    """Whether gRPC's name of a peer, ``ipv4:127.0.0.1:40000``, is one of this machine."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return kind == "unix"
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _names(context: Context) -> tuple[str, ...]:
    found = context.auth_context()
    names = found.get("x509_subject_alternative_name") or found.get("x509_common_name") or ()
    return tuple(_readable(name.decode(errors="replace")) for name in names)


def _readable(name: str) -> str:
    """For logs; a name that is changed by it is none that the register may hold."""
    return "".join(char if char.isprintable() else "?" for char in name)
