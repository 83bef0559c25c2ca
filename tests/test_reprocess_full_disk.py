"""`xec reprocess` onto a disk that is really full: a small tmpfs, skipped where none can be had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support_reconstruct import assert_refused
from support_reprocess import Call, command_line, write_run, wrong_with
from support_small_disk import enlarge, small_disk


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64k") as place:
        yield place


@pytest.mark.parametrize("kind", ["parquet", "root"])
def test_a_full_disk_ends_the_call_and_the_next_one_goes_on(
    call: Call, disk: Path, tmp_path: Path, stub_repository: Path, kind: str
) -> None:
    run = write_run(tmp_path, 1, 60)
    out = disk / "out"
    common = (run, "--out", out, "--model", stub_repository, "--part-events", 20)
    outcome = call(*common, "--format", kind)
    assert_refused(outcome, 3, str(disk), "No space left on device")
    enlarge(disk, "64m")
    assert call(*common, "--format", kind).code == 0
    assert wrong_with(out, Counter((1001, event) for event in range(60))) == []
