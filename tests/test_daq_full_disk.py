"""`xec daq` where a disk is really full, and somebody makes room while it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support_daq import (
    Folders,
    ended,
    events_of,
    killed,
    midas_file,
    server_process,
    spooled,
    verdict_of,
    wait_until,
    xec,
)
from support_small_disk import enlarge, small_disk

QUICK = ["--part-seconds", "0.3", "--report-seconds", "0.1"]
EVENTS = 60


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as place:
        yield place


@contextmanager
def forwarder(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`xec daq` as a process, which ends with the block."""
    process = xec("daq", *arguments)
    try:
        yield process
    finally:
        killed(process, 0)


def wait_for_line(process: subprocess.Popen[str], *words: str) -> str:
    """The first line of the console that holds all these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if all(word in line for word in words):
            return line
    raise AssertionError(f"it ended without a word of {words}")


def test_a_full_disk_under_the_spool_loses_nothing(
    tmp_path: Path, disk: Path, stub_repository: Path
) -> None:
    """The events of about 1 MiB are spooled, the others wait in memory; then there is room."""
    folders = Folders(disk)
    batch = events_of(6, EVENTS)
    source = midas_file(tmp_path / "run00006.mid", batch)
    with server_process(stub_repository) as server, ExitStack() as stack:
        server.kill()
        arguments = ("--replay", source, *QUICK, *folders.arguments(server.address))
        process = stack.enter_context(forwarder(*arguments))
        all_offered = f"of {EVENTS} events: 0 results"
        line = wait_for_line(process, "the spool's disk refuses", all_offered)
        assert f"{EVENTS} waiting" in line
        assert "0 not kept" in line
        assert 0 < spooled(folders) < EVENTS
        enlarge(disk, "64m")
        wait_until(lambda: spooled(folders) == EVENTS)
        server.start(stub_repository)
        status, out, error = ended(process)
    assert status == 0, error
    assert "the spool's disk refuses" not in out.splitlines()[-1]
    verdict = verdict_of(folders, batch)
    assert (verdict.is_clean, verdict.results) == (True, EVENTS), str(verdict)


def test_what_a_full_disk_did_not_take_before_the_end_is_on_record(
    tmp_path: Path, disk: Path, stub_repository: Path
) -> None:
    """Killed by nobody, but told to end while the disk is full: each event is accounted for."""
    folders = Folders(disk)
    batch = events_of(6, EVENTS)
    source = midas_file(tmp_path / "run00006.mid", batch)
    nobody = folders.arguments("127.0.0.1:1")
    with forwarder("--replay", source, *QUICK, "--grace", "0.1", *nobody) as process:
        wait_for_line(process, "the spool's disk refuses", f"of {EVENTS} events")
        process.terminate()
        status, out, error = ended(process)
    assert status == 7, error
    verdict = verdict_of(folders, batch)
    assert verdict.is_clean, str(verdict)
    assert 0 < verdict.spooled < EVENTS
    assert f"{EVENTS - verdict.spooled} not kept" in out.splitlines()[-1]
    enlarge(disk, "64m")
    with server_process(stub_repository) as server:
        status, _, error = ended(xec("daq", "--replay", source, *folders.arguments(server.address)))
    assert status == 0, error
    verdict = verdict_of(folders, batch)
    assert (verdict.is_clean, verdict.results) == (True, EVENTS), str(verdict)


@pytest.mark.parametrize("kind", ["parquet", "root"])
def test_a_full_disk_under_the_output_loses_nothing(
    tmp_path: Path, stub_repository: Path, kind: str
) -> None:
    batch = events_of(6, EVENTS)
    source = midas_file(tmp_path / "run00006.mid", batch)
    with (
        small_disk(tmp_path / "out", "16k") as out,
        server_process(stub_repository) as server,
        ExitStack() as stack,
    ):
        folders = Folders(tmp_path)
        arguments = ["--replay", source, "--format", kind, *QUICK]
        process = stack.enter_context(forwarder(*arguments, *folders.arguments(server.address)))
        line = wait_for_line(process, "results cannot be written")
        assert " 0 rejected, 0 damaged" in line
        assert spooled(folders) > 0
        enlarge(out, "64m")
        status, _, error = ended(process)
        assert status == 0, error
        if kind == "parquet":
            verdict = verdict_of(folders, batch)
            assert (verdict.is_clean, verdict.results) == (True, EVENTS), str(verdict)
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        assert spooled(folders) == 0
