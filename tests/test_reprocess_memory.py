"""The memory of `xec reprocess` does not grow with its input."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import random_events
from support_reconstruct import GEOMETRY
from xec.event import EventBatch
from xec.io.events import open_event_writer

TESTS = Path(__file__).parent
SMALL, LARGE = 128, 1920
EVENT_BYTES = 4760 * 8  # counts and times

# Prints the most memory that the process ever had, in KiB.
PROGRAM = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write(path: Path, count: int) -> Path:
    """The same 64 events again and again."""
    batch = random_events(64, 1)
    fields = ("run", "event", "npho", "time", "npho_valid", "time_valid")
    with open_event_writer(path, run=1001, geometry_hash=GEOMETRY, synthetic=True) as writer:
        for _ in range(count // 64):
            writer.write(EventBatch(*(getattr(batch, name) for name in fields)))
    return path


def peak_mb(source: Path, out: Path, model: Path, kind: str) -> float:
    options = ("--part-events", "128", "--batch-size", "16", "--quiet", "--format", kind)
    done = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM, TESTS / "reprocess_cli.py", source),
            *("--out", out, "--model", model, *options),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 1024


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="no resource usage here")
@pytest.mark.parametrize(("suffix", "kind"), [(".root", "parquet"), (".mid", "root")])
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, stub_repository: Path, suffix: str, kind: str
) -> None:
    small, large = (
        peak_mb(write(tmp_path / f"{n}{suffix}", n), tmp_path / f"out{n}", stub_repository, kind)
        for n in (SMALL, LARGE)
    )
    more = (LARGE - SMALL) * EVENT_BYTES / 1e6
    assert more > 60
    assert large - small < more / 2
