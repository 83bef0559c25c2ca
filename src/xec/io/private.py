"""Files that hold secrets: read only where nobody else can read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from xec.errors import FileError

MOST_BYTES: Final = 1 << 20
"""Of any file that is read here; keys, certificates and tokens are far smaller."""

_OTHERS: Final = stat.S_IRWXO
_GROUP_WRITES: Final = stat.S_IWGRP | stat.S_IXGRP
_ROOT: Final = 0


def read_small(path: Path) -> bytes:
    """The content of a file of at most 1 MiB.

    Raises:
        FileError: it cannot be read, or is larger.
    """
    return _read(path, secret=False)


def read_private(path: Path) -> bytes:
    """The content of a file that only its owner can read.

    Its group may read it too where it belongs to root, as for keys that the system hands to a
    service (the rule of PostgreSQL).

    Raises:
        FileError: it cannot be read, is larger than 1 MiB, or others can read it.
    """
    return _read(path, secret=True)


def _read(path: Path, *, secret: bool) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if secret:
                _refuse_shared(path, status)
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > MOST_BYTES:
        raise FileError(f"{path} is no key, certificate or token: it has more than 1 MiB.")
    return content


def _refuse_shared(path: Path, status: os.stat_result) -> None:
    refused = _OTHERS | (_GROUP_WRITES if status.st_uid == _ROOT else stat.S_IRWXG)
    if stat.S_ISREG(status.st_mode) and status.st_mode & refused:
        raise FileError(
            f"{path} holds a secret and others can read or write it: chmod 600 {path}, and renew "
            "the secret if anybody else may have read it."
        )
