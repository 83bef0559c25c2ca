"""Bearer tokens: how they are made, and what of them is kept.

A token is 256 random bits, so that its plain SHA-256 tells nothing about it: slow hashes protect
what people choose, and would let anybody keep the server busy with wrong tokens.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

PREFIX: Final = "xec_"
"""By which scanners for secrets find a token that got into a file or a log."""

_BYTES: Final = 32
ID_DIGITS: Final = 8


def new_token() -> str:
    """A token that nobody has had before."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def digest_of(token: str) -> str:
    """What is kept of a token: the SHA-256 of its text, in 64 hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()
