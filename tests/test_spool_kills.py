"""The real spool in a real process, killed at random moments; the independent checker judges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import support_sizes as sizes

TESTS = Path(__file__).parent
KILLS = 20
MANY_KILLS = sizes.of(300, 1000)
SERIES = 12


def upper_limit(kills: int) -> float:
    """Of the probability of a loss per kill, at 95 %, when none of `kills` had one."""
    return float(1 - 0.05 ** (1 / kills))


def kill_many(
    folder: Path, kills: int, seed: int, *defect: str
) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own, which forks and has no threads."""
    return subprocess.run(
        [
            sys.executable,
            str(TESTS / "spool_lives.py"),
            str(folder),
            str(kills),
            str(seed),
            *defect,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_kills_lose_nothing_without_record(tmp_path: Path) -> None:
    done = kill_many(tmp_path, KILLS, 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost of" in done.stdout
    assert "; 0 doubled, 0 invented, 0 altered" in done.stdout
    # There was something to lose.
    assert int(done.stdout.split(": ")[1].split()[0]) > 20


@pytest.mark.parametrize("defect", ["acknowledged early", "hand-over not noted"])
def test_a_lossy_spool_is_seen(tmp_path: Path, defect: str) -> None:
    """Control: with a defect, as many kills have losses; if not at once, then with more luck.

    On a quiet machine hardly anything waits in memory, and kills that find it empty lose nothing.
    """
    for seed in range(1, SERIES + 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        done = kill_many(folder, KILLS, seed, defect)
        assert done.stdout, done.stderr
        if done.returncode == 1:
            assert not done.stdout.startswith("0 lost")
            return
    pytest.fail(f"{SERIES} series of {KILLS} kills did not show the defect")


def test_the_limit_is_that_of_the_binomial_distribution() -> None:
    assert [round(100 * upper_limit(n), 2) for n in (20, 300, 1000)] == [13.91, 0.99, 0.3]


@pytest.mark.faults
def test_many_kills_lose_nothing_without_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = kill_many(tmp_path, MANY_KILLS, 1000)
    with capsys.disabled():
        limit = f"95 % upper limit {100 * upper_limit(MANY_KILLS):.2f} % per kill"
        line = f"spool: 0 of {MANY_KILLS} kills with loss ({limit}): {done.stdout.strip()}"
        sys.stdout.write(f"\n{line if done.returncode == 0 else done.stdout}\n")
    assert done.returncode == 0, done.stdout + done.stderr
