"""One owner per spool: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from xec.errors import FileError

NAME: Final = "owner.lock"


class Ownership:
    """Held from construction to `release`.

    Args:
        folder: the spool, which exists.

    Raises:
        FileError: another process, or another part of this one, has the spool.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise FileError(
                f"The spool {folder} is in use by process {owner}: stop it, or name another spool."
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let others have the spool."""
        os.close(self._fd)
