"""Many kills of forwarder and server; `make test` has a few of them in test_daq_end_to_end.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
KILLS = 300


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
