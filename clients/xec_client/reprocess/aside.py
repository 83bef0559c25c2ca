"""Files that are not whole yet: how they are called, and what becomes of those left behind."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from xec_client.reprocess.failures import OutputError
from xec_client.reprocess.files import Files, is_abandoned

ASIDE: Final = ".aside"


def aside_of(path: Path) -> Path:
    """A new hidden name beside `path`, of the same suffix."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(6)}{ASIDE}{path.suffix}")


def is_aside(path: Path) -> bool:
    """Whether a file has such a name."""
    return path.name.startswith(".") and path.stem.endswith(ASIDE)


def sweep(folder: Path, files: Files) -> int:
    """Remove what killed writers left in a folder, not what others are writing; returns how many.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        left = [path for path in folder.iterdir() if is_aside(path) and is_abandoned(path)]
        for path in left:
            files.unlink(path)
    except OSError as error:
        raise OutputError(f"{folder} cannot be cleaned: {error.strerror}.") from error
    return len(left)
