"""The users of locust, as processes of their own: importing locust changes the standard library."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xec_loadtest.servers import Engine, serving

ROOT = Path(__file__).resolve().parents[1]
LENIENT = ("--most-p50", "1000", "--most-p99", "10000")
KINDS = {"Reconstruct", "ReconstructStream", "ReconstructBatch of 64"}


@pytest.fixture(scope="module")
def address(stub_repository: Path) -> Iterator[str]:
    """Of a server in a process of its own, on the stub model."""
    with serving(Engine.ONNX, stub_repository, print) as address:
        yield address


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, log = process.communicate(timeout=60)
    return process.returncode, output, log


def headless(address: str, users: int, seconds: int, *arguments: str) -> tuple[str, ...]:
    fast = ("-u", str(users), "-r", "100", "-t", f"{seconds}s")
    return ("--headless", "-H", address, *fast, "--only-summary", *arguments)


def test_a_run_within_its_thresholds_passes_and_leaves_a_report(
    address: str, tmp_path: Path
) -> None:
    report = tmp_path / "load.html"
    options = (*LENIENT, "--stream-seconds", "0.5", "--json", "--html", str(report))
    code, output, log = ended(started(*headless(address, 6, 3, *options)))
    assert code == 0, log
    assert "BROKEN" not in log
    assert log.count("passed") == 5
    entries = {entry["name"]: entry for entry in json.loads(output)}
    assert set(entries) == KINDS
    assert all(entry["num_requests"] > 0 for entry in entries.values())
    assert sum(entry["num_failures"] for entry in entries.values()) == 0
    # 4 analysts with 5 requests/s each, whatever the answers take: 4 standard deviations above.
    assert entries["Reconstruct"]["num_requests"] < 60 + 4 * 60**0.5
    page = report.read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert all(kind in page for kind in KINDS)


def test_a_broken_threshold_is_the_exit_code(address: str) -> None:
    code, _, log = ended(started(*headless(address, 2, 1, "--most-p99", "0.001", "Analyst")))
    assert code == 1
    assert re.search(r"BROKEN Reconstruct p99: \d+ ms, [\d.]+ times the unloaded", log)


def test_two_workers_share_the_users_and_the_master_judges(address: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    report = tmp_path / "load.html"
    options = (*LENIENT, "--html", str(report))
    distributed = ("--master", "--expect-workers", "2", "--master-bind-port", port)
    master = started(*headless(address, 6, 2, *options), *distributed)
    join = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
    workers = [started(*join) for _ in range(2)]
    code, _, log = ended(master)
    assert code == 0, log
    assert "2 workers connected" in log
    assert re.search(r"passed failed: 0.00% of [1-9]", log)
    assert [ended(worker)[0] for worker in workers] == [0, 0]
    assert report.stat().st_size > 10_000


def test_without_a_server_nothing_is_begun() -> None:
    code, _, log = ended(started("--headless", "-u", "2", "-t", "20s", "--only-summary"))
    assert code == 2
    assert "is no server's address: write HOST:PORT" in log
    assert "All users spawned" not in log
    assert "Traceback" not in log
