"""The file of who may call: names, rights, digests of tokens, names in certificates.

JSON, so that every tool can read and write it::

    {
      "format": "xec-identities/1",
      "tokens": [
        {"name": "daq", "sha256": "<64 hexadecimal digits>", "rights": ["reconstruct", "info"],
         "created": "2026-11-25T17:00:00+00:00", "expires": "2027-11-25T17:00:00+00:00"}
      ],
      "certificates": [{"name": "daq.example.org", "rights": ["reconstruct", "info"]}],
      "everybody": ["info"]
    }

`created` and `expires` may be left out; a token without `expires` is good until it is revoked.
`everybody` is what needs no name, nothing by default and never `admin`.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from xec.errors import FileError
from xec_server.identity.rights import Right
from xec_server.identity.tokens import ID_DIGITS

FORMAT: Final = "xec-identities/1"
EVERYBODY: Final = "everybody"
"""Stands for callers without a name; nobody has it as one."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+*=,-]{0,99}")
_MAY_NAME: Final = "letters, digits and ._@:/+*=,- (at most 100)"


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who may call.

    Args:
        name: of a token, or in a certificate.
        rights: what they may do.
        expires: from when on not any more; None: never.
    """

    name: str
    rights: frozenset[Right]
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A token as it is kept.

    Args:
        holder: whose it is.
        sha256: digest of its text.
        created: when, where that is known.
    """

    holder: Holder
    sha256: str
    created: datetime | None = None

    @property
    def id(self) -> str:
        """By which one of several tokens of a name is revoked."""
        return self.sha256[:ID_DIGITS]


@dataclass(frozen=True, slots=True)
class Register:
    """All who may call.

    Args:
        tokens: several may have one name, as while one replaces another.
        certificates: by their names.
        everybody: what callers may do who have no name.
    """

    tokens: tuple[TokenEntry, ...] = ()
    certificates: tuple[Holder, ...] = ()
    everybody: frozenset[Right] = frozenset()

    def by_token(self, digest: str) -> Holder | None:
        """Who has the token with this digest.

        All are compared, each in constant time: how long it takes tells nothing.
        """
        found = None
        for entry in self.tokens:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry.holder
        return found

    def by_certificate(self, names: Iterable[str]) -> Holder | None:
        """Whose certificate has one of these names."""
        wanted = set(names)
        return next((holder for holder in self.certificates if holder.name in wanted), None)


def parse_rights(texts: Iterable[str]) -> frozenset[Right]:
    """Rights by their names.

    Raises:
        ValueError: there is no such right.
    """
    known = {right.value: right for right in Right}
    wanted = list(texts)
    unknown = [text for text in wanted if text not in known]
    if unknown or not wanted:
        raise ValueError(f"rights are {', '.join(known)}, not {', '.join(unknown) or 'none'}")
    return frozenset(known[text] for text in wanted)


def check_name(name: object) -> str:
    """A name that may stand in logs and labels.

    Raises:
        ValueError: it may not.
    """
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(f"a name consists of {_MAY_NAME}")
    if name == EVERYBODY:
        raise ValueError("everybody has no name")
    return name


def parse_register(content: bytes, path: object) -> Register:
    """Read the file.

    Args:
        content: of it.
        path: for messages, which never quote what the file holds: a token may have got there.

    Raises:
        FileError: it is none, or not understood to the last word: an entry that is skipped could
            be one that takes a right away.
    """
    try:
        document = json.loads(content)
        return _register(document)
    except (ValueError, KeyError, TypeError) as error:
        why = "it is no JSON" if isinstance(error, json.JSONDecodeError) else _reason(error)
        raise FileError(
            f"{path} is no file of identities, {why}: make one by xec tokens new."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _register(document: Any) -> Register:
    _only(document, {"format", "tokens", "certificates", EVERYBODY}, "the file")
    if document["format"] != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    tokens = tuple(_token(entry) for entry in _list(document, "tokens"))
    certificates = tuple(_certificate(entry) for entry in _list(document, "certificates"))
    names = [holder.name for holder in certificates]
    if len({entry.sha256 for entry in tokens}) < len(tokens) or len(set(names)) < len(names):
        raise ValueError("a token or a certificate is listed twice")
    if set(names) & {entry.holder.name for entry in tokens}:
        raise ValueError("a token and a certificate have the same name")
    return Register(tokens, certificates, _of_everybody(document))


def _of_everybody(document: dict[str, Any]) -> frozenset[Right]:
    if not document.get(EVERYBODY):
        return frozenset()
    rights = _rights({"rights": document[EVERYBODY]})
    if Right.ADMIN in rights:
        raise ValueError("admin is not for everybody")
    return rights


def _list(document: dict[str, Any], key: str) -> list[Any]:
    entries = document.get(key, [])
    if not isinstance(entries, list):
        raise TypeError(f"{key} is no list")
    return entries


def _only(entry: Any, known: set[str], what: str) -> None:
    if not isinstance(entry, dict):
        raise TypeError(f"{what} is no object")
    if not entry.keys() <= known:
        raise ValueError(f"{what} has other fields than {', '.join(sorted(known))}")


def _token(entry: Any) -> TokenEntry:
    _only(entry, {"name", "sha256", "rights", "created", "expires"}, "a token")
    if not (isinstance(entry["sha256"], str) and _SHA256.fullmatch(entry["sha256"])):
        raise ValueError("a token's sha256 is not 64 hexadecimal digits")
    holder = Holder(check_name(entry["name"]), _rights(entry), _moment(entry, "expires"))
    return TokenEntry(holder, entry["sha256"], _moment(entry, "created"))


def _certificate(entry: Any) -> Holder:
    _only(entry, {"name", "rights"}, "a certificate")
    return Holder(check_name(entry["name"]), _rights(entry))


def _rights(entry: dict[str, Any]) -> frozenset[Right]:
    rights = entry["rights"]
    if not (isinstance(rights, list) and all(isinstance(right, str) for right in rights)):
        raise TypeError("rights are no list of words")
    return parse_rights(rights)


def _moment(entry: dict[str, Any], key: str) -> datetime | None:
    if key not in entry:
        return None
    if not isinstance(entry[key], str):
        raise TypeError(f"{key} is no time")
    moment = datetime.fromisoformat(entry[key])
    if moment.tzinfo is None:
        raise ValueError(f"{key} has no time zone")
    return moment.astimezone(UTC)


def write_register(register: Register) -> bytes:
    """The file's content."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "tokens": [_token_entry(entry) for entry in register.tokens],
        "certificates": [
            {"name": holder.name, "rights": sorted(holder.rights)}
            for holder in register.certificates
        ],
    }
    if register.everybody:
        document[EVERYBODY] = sorted(register.everybody)
    return (json.dumps(document, indent=2) + "\n").encode()


def _token_entry(entry: TokenEntry) -> dict[str, Any]:
    holder = entry.holder
    told: dict[str, Any] = {"name": holder.name, "sha256": entry.sha256}
    told["rights"] = sorted(holder.rights)
    if entry.created is not None:
        told["created"] = entry.created.isoformat(timespec="seconds")
    if holder.expires is not None:
        told["expires"] = holder.expires.isoformat(timespec="seconds")
    return told
