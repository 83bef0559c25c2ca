"""An operator who is known by a token, on a server where everybody else may reconstruct."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Final

from xec_server.identity.identity import Identity
from xec_server.identity.register import Holder, Register, TokenEntry, write_register
from xec_server.identity.rights import OPEN, Right
from xec_server.identity.tokens import digest_of, new_token

TOKEN: Final = new_token()
METADATA: Final = (("authorization", f"Bearer {TOKEN}"),)
LETS_ALL_IN: Final = Identity(lambda call: nullcontext(), asks_for_names=True)
"""For tests in one process that are about what an operator's call does."""


def tokens_file(folder: Path) -> Path:
    """For `xec serve --tokens`."""
    holder = Holder("operator", frozenset({Right.ADMIN}))
    register = Register((TokenEntry(holder, digest_of(TOKEN)),), everybody=OPEN)
    path = folder / "tokens.json"
    path.write_bytes(write_register(register))
    path.chmod(0o600)
    return path
