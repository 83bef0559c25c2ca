"""Text files of dead-channel lists and tables: read whole, written aside and then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from xec.errors import ConditionsError

# A hundred thousand intervals with lists of usual length; anything longer is another kind of file.
MAX_BYTES: Final = 1 << 26


def read_text(path: Path) -> str:
    """The text of a file that holds a list or a table.

    Raises:
        ConditionsError: it is missing, unreadable, too long, or no text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConditionsError(f"{path} does not exist.") from error
    except OSError as error:
        raise ConditionsError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise ConditionsError(f"{path} holds no dead lists: it is longer than {MAX_BYTES} bytes.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConditionsError(f"{path} holds no dead lists: it is not text.") from error


def write_text(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file that appears complete or not at all.

    Raises:
        ConditionsError: the operating system refuses.
    """
    # For root, the text would take the place of /dev/null for every program of the machine.
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConditionsError(f"{path} cannot be written: it is a device or a pipe; name a file.")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with part.open("x", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConditionsError(f"{path} cannot be written: {error.strerror}.") from error
