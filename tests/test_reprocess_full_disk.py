"""`xec reprocess` onto a disk that is really full: a small tmpfs, skipped where none can be had."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support_reconstruct import assert_refused
from support_reprocess import Call, command_line, write_run, wrong_with


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return command_line(monkeypatch, capsys)


def mount(*options: object) -> bool:
    if shutil.which("mount") is None:
        return False
    command = ["mount", *map(str, options)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=64k", "none", place):
        pytest.skip("a small tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kind", ["parquet", "root"])
def test_a_full_disk_ends_the_call_and_the_next_one_goes_on(
    call: Call, small_disk: Path, tmp_path: Path, stub_repository: Path, kind: str
) -> None:
    run = write_run(tmp_path, 1, 60)
    out = small_disk / "out"
    common = (run, "--out", out, "--model", stub_repository, "--part-events", 20)
    outcome = call(*common, "--format", kind)
    assert_refused(outcome, 3, str(small_disk), "No space left on device")
    assert mount("-o", "remount,size=64m", small_disk)
    assert call(*common, "--format", kind).code == 0
    assert wrong_with(out, Counter((1001, event) for event in range(60))) == []
