"""A disk that is really full: a small tmpfs, skipped where none can be had."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*options: object) -> bool:
    if shutil.which("mount") is None:
        return False
    command = ["mount", *map(str, options)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of a size such as ``64k``, at a folder that is made."""
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", f"size={size}", "none", place):
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def enlarge(place: Path, size: str) -> None:
    """Somebody makes room."""
    assert mount("-o", f"remount,size={size}", place)
