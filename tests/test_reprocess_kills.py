"""`xec reprocess` in a process of its own, killed at random moments and called again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import support_sizes as sizes
from support_reprocess import contents, write_run, wrong_with
from test_spool_kills import upper_limit
from xec_client.reprocess.manifest import NAME

TESTS = Path(__file__).parent
RUNS, EVENTS = 6, 24
EXPECTED = Counter((1000 + run, event) for run in range(RUNS) for event in range(EVENTS))
PATIENCE = 120.0  # s, for a process that must have begun to work


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    suffixes = (".root", ".mid.lz4")
    return [write_run(folder, n, EVENTS, suffixes[n % 2]) for n in range(RUNS)]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TESTS / "reprocess_cli.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*arguments: object) -> str:
    """A call that nobody kills: what it prints."""
    process = start(*arguments)
    out, error = process.communicate()
    assert process.returncode == 0, error
    return out


def progress(out: Path) -> int:
    """Bytes of the manifest, which grow with everything that is done."""
    return sum(path.stat().st_size for path in out.glob(f"*/{NAME}"))


def kill_once(out: Path, random: Random, *arguments: object) -> bool:
    """Kill a call somewhere after it began to work; False: it was done before."""
    before = progress(out)
    process = start(*arguments)
    until = time.monotonic() + PATIENCE
    while process.poll() is None and progress(out) == before:
        assert time.monotonic() < until, "the process does not begin"
        time.sleep(0.002)
    time.sleep(random.random() * 0.15)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_many(folder: Path, runs: list[Path], model: Path, kills: int, seed: int) -> int:
    """So many kills, each output folder being finished and checked when it is done: hits."""
    random = Random(seed)
    done, lives = 0, 0
    reference: dict[str, str] = {}
    while done < kills:
        out = folder / f"out{lives}"
        common = (*runs, "--out", out, "--model", model, "--part-events", 4, "--batch-size", 4)
        hits = 0
        while hits < 5 and done < kills and kill_once(out, random, *common):
            hits, done = hits + 1, done + 1
        finish(*common)
        assert wrong_with(out, EXPECTED) == [], (lives, hits)
        reference = reference or contents(out)
        assert contents(out) == reference
        shutil.rmtree(out)
        lives += 1
    return done


def test_kills_lose_and_double_nothing(
    tmp_path: Path, runs: list[Path], stub_repository: Path
) -> None:
    assert kill_many(tmp_path, runs, stub_repository, 3, 1) == 3


@pytest.mark.faults
def test_many_kills_lose_and_double_nothing(
    tmp_path: Path, runs: list[Path], stub_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = sizes.of(30, 300)
    assert kill_many(tmp_path, runs, stub_repository, kills, 1000) == kills
    with capsys.disabled():
        limit = f"95 % upper limit {100 * upper_limit(kills):.2f} % per kill"
        sys.stdout.write(f"\nreprocess: 0 of {kills} kills with loss ({limit})\n")


def test_a_life_that_lost_a_part_is_seen(
    tmp_path: Path, runs: list[Path], stub_repository: Path
) -> None:
    """Control: the same check after a part was lost, and after one was doubled."""
    out = tmp_path / "out"
    finish(*runs[:1], "--out", out, "--model", stub_repository, "--part-events", 8)
    expected = Counter({key: n for key, n in EXPECTED.items() if key[0] == 1000})
    assert wrong_with(out, expected) == []
    (first, *_) = sorted(out.glob("*/*.parquet"))
    shutil.copy(first, first.with_name(f"again.{first.name}"))
    assert any("doubled" in what for what in wrong_with(out, expected))
    first.with_name(f"again.{first.name}").unlink()
    first.unlink()
    assert any("missing" in what for what in wrong_with(out, expected))
