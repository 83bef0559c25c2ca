"""The clock on the wall of one process, moved while it runs (libfaketime); monotonic time goes on.

As in life: who sets the clock of a machine changes the date, not how long anything takes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support_databases import ROOT


def _library() -> Path | None:
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def faketime() -> Path:
    """The library to load before; installs it where that is possible, else skips."""
    found = _library()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        done = subprocess.run(
            [ROOT / ".ci" / "faketime"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = _library()
    if found is None:
        reason = "libfaketime is not installed (apt-get install libfaketime)"
        if os.environ.get("XEC_REQUIRE_FAKETIME"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Wall:
    """The clock of processes that are started from now on, in the environment of `monkeypatch`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "offset"
        self.move(0)
        settings = {
            "LD_PRELOAD": str(faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)

    def move(self, seconds: int) -> None:
        """Show so many seconds more than it is (fewer: below 0)."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)
