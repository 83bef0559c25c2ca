"""`xec reprocess` in a process of its own, killed at random moments and called again."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from select import select

import pytest

import support_sizes as sizes
from support_forks import Forks, forking
from support_reprocess import contents, write_run, wrong_with
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


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forking(tmp_path_factory.mktemp("forks")) as forks:
        yield forks


def progress(out: Path) -> int:
    """Bytes of the manifest, which grow with everything that is done."""
    return sum(path.stat().st_size for path in out.glob(f"*/{NAME}"))


def kill_once(forks: Forks, out: Path, random: Random, *arguments: object) -> bool:
    """Kill a call somewhere after it began to work; False: it was done before."""
    before = progress(out)
    process = forks.start(*arguments)
    ended = os.pidfd_open(process)
    until = time.monotonic() + PATIENCE
    while not select([ended], [], [], 0.002)[0] and progress(out) == before:
        assert time.monotonic() < until, "the process does not begin"
    os.close(ended)
    return forks.killed(process, random.random() * 0.15)


def kill_many(
    forks: Forks, folder: Path, runs: list[Path], model: Path, kills: int, seed: int
) -> int:
    """So many kills, each output folder being finished and checked when it is done: hits."""
    random = Random(seed)
    done, lives = 0, 0
    reference: dict[str, str] = {}
    while done < kills:
        out = folder / f"out{lives}"
        common = ("reprocess", *runs, "--out", out, "--model", model)
        common += ("--part-events", 4, "--batch-size", 4)
        hits = 0
        while hits < 5 and done < kills and kill_once(forks, out, random, *common):
            hits, done = hits + 1, done + 1
        assert forks.ended(*common) == 0, forks.printed
        assert wrong_with(out, EXPECTED) == [], (lives, hits)
        reference = reference or contents(out)
        assert contents(out) == reference
        shutil.rmtree(out)
        lives += 1
    return done


def test_kills_lose_and_double_nothing(
    tmp_path: Path, forks: Forks, runs: list[Path], stub_repository: Path
) -> None:
    assert kill_many(forks, tmp_path, runs, stub_repository, 3, 1) == 3


@pytest.mark.faults
def test_many_kills_lose_and_double_nothing(
    tmp_path: Path,
    forks: Forks,
    runs: list[Path],
    stub_repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kills = sizes.of(30, 300)
    assert kill_many(forks, tmp_path, runs, stub_repository, kills, 1000) == kills
    with capsys.disabled():
        limit = f"95 % upper limit {100 * upper_limit(kills):.2f} % per kill"
        sys.stdout.write(f"\nreprocess: 0 of {kills} kills with loss ({limit})\n")


def test_a_life_that_lost_a_part_is_seen(
    tmp_path: Path, forks: Forks, runs: list[Path], stub_repository: Path
) -> None:
    """Control: the same check after a part was lost, and after one was doubled."""
    out = tmp_path / "out"
    common = ("--out", out, "--model", stub_repository, "--part-events", 8)
    assert forks.ended("reprocess", *runs[:1], *common) == 0, forks.printed
    expected = Counter({key: n for key, n in EXPECTED.items() if key[0] == 1000})
    assert wrong_with(out, expected) == []
    (first, *_) = sorted(out.glob("*/*.parquet"))
    shutil.copy(first, first.with_name(f"again.{first.name}"))
    assert any("doubled" in what for what in wrong_with(out, expected))
    first.with_name(f"again.{first.name}").unlink()
    first.unlink()
    assert any("missing" in what for what in wrong_with(out, expected))
