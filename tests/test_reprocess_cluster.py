"""`xec reprocess` by Dask: real schedulers and workers, and workers that are killed."""

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
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import psutil
import pytest

from support_reconstruct import assert_refused
from support_reprocess import (
    TESTS,
    Call,
    command_line,
    contents,
    finish,
    start,
    write_run,
    wrong_with,
)
from xec.errors import UsageError
from xec_client.reprocess.cluster_address import ClusterAddress, ClusterKind, parse_cluster
from xec_client.reprocess.feeding import LOST
from xec_client.reprocess.manifest import NAME

LOST_WORKER = "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT"
EVENTS = {1: 24, 2: 24, 3: 0, 4: 17}
EXPECTED = Counter((1000 + run, event) for run, count in EVENTS.items() for event in range(count))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return command_line(monkeypatch, capsys)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder, number, count, ".mid.gz" if number == 4 else ".root")
        for number, count in EVENTS.items()
    ]


@pytest.fixture(scope="module")
def options(stub_repository: Path) -> tuple[object, ...]:
    return ("--model", stub_repository, "--part-events", 1, "--batch-size", 3)


@pytest.fixture(scope="module")
def here(
    runs: list[Path], options: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Digests of the parts as one process makes them."""
    out = tmp_path_factory.mktemp("here")
    finish(*runs, "--out", out, *options)
    return contents(out)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes below a call, which their nannies have spawned."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        return [p for p in below if "spawn_main" in " ".join(p.cmdline())]
    except psutil.NoSuchProcess:
        return []


def begun(out: Path) -> bool:
    """Whether a part is done."""
    return any(b'"part"' in path.read_bytes() for path in out.glob(f"*/{NAME}"))


def test_two_workers_give_the_same_as_none_though_one_is_killed(
    runs: list[Path], options: tuple[object, ...], here: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(*runs, "--out", out, *options, "--cluster", "local:2")
    killed: list[int] = []
    environments: list[dict[str, str]] = []
    while process.poll() is None and not killed:
        if begun(out):
            for worker in workers_of(process)[:1]:
                environments.append(worker.environ())
                worker.send_signal(signal.SIGKILL)
                killed.append(worker.pid)
        time.sleep(0.002)
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert killed
    assert not any("MALLOC_TRIM_THRESHOLD_" in environment for environment in environments)
    assert wrong_with(out, EXPECTED) == []
    assert contents(out) == here


@pytest.mark.faults
def test_twenty_runs_come_out_the_same_though_workers_are_killed(
    stub_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three kills at random moments; one run of the twenty is cut short and fails with a reason."""
    suffixes = (".root", ".mid.lz4", ".root", ".mid")
    runs = [write_run(tmp_path, n, 12, suffixes[n % 4]) for n in range(20)]
    foreign = tmp_path / "run00099.root"
    foreign.write_bytes(runs[0].read_bytes()[:5000])
    options = (*runs, foreign, "--model", stub_repository, "--part-events", 2, "--batch-size", 2)
    here = start(*options, "--out", tmp_path / "here")
    _, error = here.communicate()
    assert here.returncode == 10, error
    random = Random(20)
    out = tmp_path / "out"
    process = start(*options, "--out", out, "--cluster", "local:2")
    killed: set[int] = set()
    while process.poll() is None:
        workers = [w for w in workers_of(process) if w.pid not in killed]
        if begun(out) and workers and len(killed) < 3:
            time.sleep(0.3 * random.random())  # three fit into the time that the work takes
            victim = random.choice(workers)
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
                killed.add(victim.pid)
        time.sleep(0.002)
    _, error = process.communicate()
    assert process.returncode == 10, error
    assert "1 of 21 runs failed" in error
    assert len(killed) == 3
    expected = Counter((1000 + n, event) for n in range(20) for event in range(12))
    assert wrong_with(out, expected) == [f"{foreign.name} is failed"]
    assert contents(out) == contents(tmp_path / "here")
    with capsys.disabled():
        sys.stdout.write("\nreprocess: 20 runs with 3 workers killed: 0 lost, 0 doubled\n")


@pytest.mark.faults
def test_a_run_that_kills_its_workers_fails_and_the_others_go_on(
    runs: list[Path], stub_repository: Path, tmp_path: Path
) -> None:
    """Also where workers come back later than Dask waits for them by itself."""
    paths = os.pathsep.join([str(TESTS), *sys.path])
    done = subprocess.run(
        [
            *(sys.executable, TESTS / "reprocess_poison.py", stub_repository, tmp_path / "out"),
            *runs,
        ],
        env={**os.environ, "PYTHONPATH": paths, LOST_WORKER: "10ms"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    states = {name: state for name, (state, _) in found.items()}
    assert states.pop("run00002.root") == "failed"
    assert set(states.values()) == {"done"}
    assert "the workers that had it died" in found["run00002.root"][1]


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signed itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@contextmanager
def scheduler(folder: Path, cert: Path, key: Path) -> Iterator[str]:
    """The address of a real scheduler with one worker, which speak TLS only."""
    file = folder / "scheduler.json"
    tls = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    common = (*tls, "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", file)
    worker = ("--nthreads", "1", "--no-nanny", "--local-directory", folder / "scratch")
    programs = (("scheduler", "--port", "0", "--protocol", "tls"), ("worker", *worker))
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{name}", *map(str, (*rest, *common))],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, *rest in programs
    ]
    try:
        while not file.exists() or not file.read_text().strip().endswith("}"):
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.05)
        yield str(json.loads(file.read_text())["address"])
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")
def test_a_scheduler_behind_tls_gives_the_same_to_those_it_knows(
    runs: list[Path], options: tuple[object, ...], here: dict[str, str], tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path, "ours")
    other, other_key = certificate(tmp_path, "other")
    with scheduler(tmp_path, cert, key) as address:
        common = (*runs, *options, "--cluster", address, "--tls-ca", cert)
        strange = (*common, "--tls-cert", other, "--tls-key", other_key, "--wait", 2)
        refused = start(*strange, "--out", tmp_path / "none")
        _, error = refused.communicate()
        assert refused.returncode == 7, error
        assert f"xec: The Dask scheduler {address} cannot be reached" in error
        out = tmp_path / "out"
        finish(*common, "--tls-cert", cert, "--tls-key", key, "--out", out)
    assert wrong_with(out, EXPECTED) == []
    assert contents(out) == here


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")
def test_a_scheduler_that_dies_is_told_and_the_work_goes_on_elsewhere(
    runs: list[Path], options: tuple[object, ...], here: dict[str, str], tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path, "ours")
    out = tmp_path / "out"
    tls = ("--tls-ca", cert, "--tls-cert", cert, "--tls-key", key, "--wait", 5)
    with scheduler(tmp_path, cert, key) as address:
        process = start(*runs, "--out", out, *options, "--cluster", address, *tls)
        while process.poll() is None and not begun(out):
            time.sleep(0.002)
    _, error = process.communicate()
    assert process.returncode in {0, 7}, error[-3000:]  # 0: it was too late
    if process.returncode:
        last = error.splitlines()[-1]  # after what Dask itself logs
        assert last == f"xec: {LOST}"
    finish(*runs, "--out", out, *options)
    assert wrong_with(out, EXPECTED) == []
    assert contents(out) == here


SBATCH = """#!/bin/sh
# In place of the batch system: keeps the script, as that does, and runs the job at once.
cp "$1" job.sh
setsid sh job.sh >job.log 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -- "-$1" 2>/dev/null || true
"""
PROFILE = """
jobqueue:
  test:
    cores: 1
    processes: 1
    memory: 1GB
"""


def test_batch_jobs_give_the_same(
    runs: list[Path],
    options: tuple[object, ...],
    here: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """dask-jobqueue with its real job script; only the batch system itself is replaced."""
    programs, configuration = tmp_path / "bin", tmp_path / "dask"
    for folder, files in (
        (programs, {"sbatch": SBATCH, "scancel": SCANCEL}),
        (configuration, {"jobqueue.yaml": PROFILE}),
    ):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DASK_CONFIG", str(configuration))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    unknown = start(*runs, "--out", out, *options, "--cluster", "slurm:other")
    assert "has no jobqueue.other" in unknown.communicate()[1]
    assert unknown.returncode == 2
    finish(*runs, "--out", out, *options, "--cluster", "slurm:test", "--wait", 60)
    assert wrong_with(out, EXPECTED) == []
    assert contents(out) == here


@pytest.mark.parametrize(
    ("text", "kind", "detail"),
    [
        ("local:2", ClusterKind.LOCAL, "2"),
        ("tcp://scheduler:8786", ClusterKind.SCHEDULER, "tcp://scheduler:8786"),
        ("tls://10.0.0.1:8786", ClusterKind.SCHEDULER, "tls://10.0.0.1:8786"),
        ("slurm:day_2", ClusterKind.SLURM, "day_2"),
    ],
)
def test_addresses(text: str, kind: ClusterKind, detail: str) -> None:
    assert parse_cluster(text) == ClusterAddress(kind, detail)


@pytest.mark.parametrize("text", ["", "local", "local:0", "local:-1", "tcp://x", "slurm:", "pbs:x"])
def test_what_is_no_cluster(text: str) -> None:
    with pytest.raises(UsageError, match="is none of"):
        parse_cluster(text)


def test_a_scheduler_that_is_not_there(
    call: Call, runs: list[Path], options: tuple[object, ...], tmp_path: Path
) -> None:
    away = ("--cluster", "tcp://127.0.0.1:1", "--wait", 1)
    outcome = call(*runs, "--out", tmp_path / "out", *options, *away)
    assert_refused(outcome, 7, "The Dask scheduler tcp://127.0.0.1:1 cannot be reached")


def test_certificates_belong_together(
    call: Call, runs: list[Path], options: tuple[object, ...], tmp_path: Path
) -> None:
    common = (*runs, "--out", tmp_path / "out", *options)
    assert_refused(call(*common, "--tls-ca", "a.pem"), 2, "belong to --cluster")
    tls = ("--cluster", "tls://127.0.0.1:1")
    assert_refused(call(*common, *tls), 2, "needs --tls-ca")
    assert_refused(call(*common, *tls, "--tls-ca", "a.pem"), 2, "all or none")
