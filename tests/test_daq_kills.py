"""Many kills of forwarder and server; `make test` has a few of them in test_daq_end_to_end.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

import support_sizes as sizes
from support_daq import Folders, events_of, midas_file, server_process, verdict_of
from support_forks import forking

TESTS = Path(__file__).parent
KILLS = sizes.of(30, 300)


@pytest.mark.faults
def test_many_kills_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(TESTS / "daq_kills.py"), str(tmp_path), str(KILLS), "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    with capsys.disabled():
        sys.stdout.write(f"\ndaq: {done.stdout}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost of" in done.stdout
    assert "0 quarantined, 0 spooled, 0 in the gap ledger" in done.stdout


# Ends the process at the N-th operation on the disk, before or after it is done.
_KILL_AT = """
import os, pathlib, signal
left = [{number}]
def deadly(real):
    def call(*a, **k):
        left[0] -= 1
        if left[0] == 0 and {before}:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*a, **k)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
for name in ("link", "fsync"):
    setattr(os, name, deadly(getattr(os, name)))
for name in ("replace", "unlink", "rename"):
    setattr(pathlib.Path, name, deadly(getattr(pathlib.Path, name)))
"""


@pytest.mark.faults
@pytest.mark.parametrize("before", [True, False])
def test_a_kill_at_every_operation_on_the_disk_loses_nothing(
    tmp_path: Path, stub_repository: Path, before: bool
) -> None:
    """N from 1 until a life comes to its end without reaching the N-th operation."""
    batch = events_of(9, 12)
    source = midas_file(tmp_path / "run00009.mid", batch)
    with server_process(stub_repository) as server, forking(tmp_path) as forks:
        for number in count(1):
            folders = Folders(tmp_path / f"{number}")
            arguments = ["daq", "--replay", source, "--part-events", "5", "--batch-size", "3"]
            arguments += folders.arguments(server.address)
            status = forks.ended(*arguments, first=_KILL_AT.format(number=number, before=before))
            assert status in (0, -signal.SIGKILL), forks.printed
            if status == 0:
                break
            assert forks.ended(*arguments) == 0, forks.printed
            verdict = verdict_of(folders, batch)
            assert verdict.is_clean, f"operation {number}: {verdict}"
            assert verdict.results == 12, f"operation {number}: {verdict}"
    assert number > 20
