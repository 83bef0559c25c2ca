"""`xec reprocess` in a process of its own, killed at random moments and called again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from select import select

import pytest

import support_sizes as sizes
from support_reprocess import contents, program, write_run, wrong_with
from test_spool_kills import upper_limit
from xec_client.reprocess.manifest import NAME

RUNS, EVENTS = 6, 24
EXPECTED = Counter((1000 + run, event) for run in range(RUNS) for event in range(EVENTS))
PATIENCE = 120.0  # s, for a process that must have begun to work


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    suffixes = (".root", ".mid.lz4")
    return [write_run(folder, n, EVENTS, suffixes[n % 2]) for n in range(RUNS)]


class Calls:
    """`xec reprocess` again and again, each a process of its own (see reprocess_forks.py)."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._forks = program("reprocess_forks.py", log, stdin=subprocess.PIPE)

    def start(self, *arguments: object) -> int:
        """The process's number, which stays its own until its `status` is asked for."""
        return self._ask([str(argument) for argument in arguments])

    def status(self) -> int:
        """How the process ended, once it has."""
        return self._ask(None)

    def finish(self, *arguments: object) -> None:
        """A call that nobody kills."""
        self.start(*arguments)
        assert self.status() == 0, self.printed

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self._forks.communicate()

    def _ask(self, what: list[str] | None) -> int:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(what) + "\n")
        self._forks.stdin.flush()
        answer = self._forks.stdout.readline()
        assert answer, self.printed
        return int(answer)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    calls = Calls(tmp_path_factory.mktemp("calls") / "log")
    yield calls
    calls.close()


def progress(out: Path) -> int:
    """Bytes of the manifest, which grow with everything that is done."""
    return sum(path.stat().st_size for path in out.glob(f"*/{NAME}"))


def kill_once(calls: Calls, out: Path, random: Random, *arguments: object) -> bool:
    """Kill a call somewhere after it began to work; False: it was done before."""
    before = progress(out)
    process = calls.start(*arguments)
    ended = os.pidfd_open(process)
    until = time.monotonic() + PATIENCE
    while not select([ended], [], [], 0.002)[0] and progress(out) == before:
        assert time.monotonic() < until, "the process does not begin"
    select([ended], [], [], random.random() * 0.15)
    os.close(ended)
    os.kill(process, signal.SIGKILL)
    status = calls.status()
    assert status in (0, -signal.SIGKILL), calls.printed
    return status != 0


def kill_many(
    calls: Calls, folder: Path, runs: list[Path], model: Path, kills: int, seed: int
) -> int:
    """So many kills, each output folder being finished and checked when it is done: hits."""
    random = Random(seed)
    done, lives = 0, 0
    reference: dict[str, str] = {}
    while done < kills:
        out = folder / f"out{lives}"
        common = (*runs, "--out", out, "--model", model, "--part-events", 4, "--batch-size", 4)
        hits = 0
        while hits < 5 and done < kills and kill_once(calls, out, random, *common):
            hits, done = hits + 1, done + 1
        calls.finish(*common)
        assert wrong_with(out, EXPECTED) == [], (lives, hits)
        reference = reference or contents(out)
        assert contents(out) == reference
        shutil.rmtree(out)
        lives += 1
    return done


def test_kills_lose_and_double_nothing(
    tmp_path: Path, calls: Calls, runs: list[Path], stub_repository: Path
) -> None:
    assert kill_many(calls, tmp_path, runs, stub_repository, 3, 1) == 3


@pytest.mark.faults
def test_many_kills_lose_and_double_nothing(
    tmp_path: Path,
    calls: Calls,
    runs: list[Path],
    stub_repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kills = sizes.of(30, 300)
    assert kill_many(calls, tmp_path, runs, stub_repository, kills, 1000) == kills
    with capsys.disabled():
        limit = f"95 % upper limit {100 * upper_limit(kills):.2f} % per kill"
        sys.stdout.write(f"\nreprocess: 0 of {kills} kills with loss ({limit})\n")


def test_a_life_that_lost_a_part_is_seen(
    tmp_path: Path, calls: Calls, runs: list[Path], stub_repository: Path
) -> None:
    """Control: the same check after a part was lost, and after one was doubled."""
    out = tmp_path / "out"
    calls.finish(*runs[:1], "--out", out, "--model", stub_repository, "--part-events", 8)
    expected = Counter({key: n for key, n in EXPECTED.items() if key[0] == 1000})
    assert wrong_with(out, expected) == []
    (first, *_) = sorted(out.glob("*/*.parquet"))
    shutil.copy(first, first.with_name(f"again.{first.name}"))
    assert any("doubled" in what for what in wrong_with(out, expected))
    first.with_name(f"again.{first.name}").unlink()
    first.unlink()
    assert any("missing" in what for what in wrong_with(out, expected))
