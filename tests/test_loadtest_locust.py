"""The users of locust, as processes of their own: importing locust changes the standard library."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from xec_loadtest.servers import Engine, serving

ROOT = Path(__file__).resolve().parents[1]
LENIENT = ("--most-p50", "1000", "--most-p99", "10000")
# Ctrl+C reaches the main greenlet: Python's own handler raises wherever the program is just then,
# and the listener for workers would swallow it. Nor is it ignored, as it may be in a child of ours.
LOCUST = """
import signal
import gevent
from locust.main import main
gevent.signal_handler(signal.SIGINT, gevent.getcurrent().throw, KeyboardInterrupt)
main()
"""
KINDS = {"Reconstruct", "ReconstructStream", "ReconstructBatch of 64"}


@pytest.fixture(scope="module")
def address(stub_repository: Path) -> Iterator[str]:
    """Of a server in a process of its own, on the stub model."""
    with serving(Engine.ONNX, stub_repository, print) as address:
        yield address


Locust = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def locust() -> Iterator[Locust]:
    """Starts locust with our users; what is left of it at the end is killed."""
    with ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", LOCUST, "-f", "loadtest/locustfile.py", *arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, **pipes))
            stack.callback(process.kill)
            return process

        yield start


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output, log."""
    output, log = process.communicate(timeout=120)
    return process.returncode, output, log


def headless(address: str, users: int, seconds: int, *arguments: str) -> tuple[str, ...]:
    fast = ("-u", str(users), "-r", "100", "-t", f"{seconds}s")
    return ("--headless", "-H", address, *fast, *arguments)


def test_locust_is_not_in_this_process() -> None:
    """Nor is what its plugin for pytest would bring."""
    assert "locust" not in sys.modules


@pytest.fixture
def port() -> str:
    """One that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


REQUESTS = r"[1-9]\d* +\d+\("  # two columns of locust's table
FAILURES = r"\d+ +[1-9]\d*\("


def until_all_kinds(process: subprocess.Popen[str], have: str) -> str:
    """What locust logs until its table counts requests, or failures, of every kind."""
    log, seen = "", set[str]()
    assert process.stderr is not None
    while seen != KINDS and (line := process.stderr.readline()):
        log += line
        row = re.match(rf"grpc +(\S.*?) +{have}", line)
        if row is not None:
            seen.add(row[1])
    return log


def test_two_workers_share_the_users_and_the_master_judges(
    locust: Locust, address: str, port: str, tmp_path: Path
) -> None:
    report = tmp_path / "load.html"
    options = (*LENIENT, "--stream-seconds", "0.5", "--html", str(report))
    distributed = ("--master", "--expect-workers", "2", "--master-bind-port", port)
    # At least two users of each kind: rarely one never sends (docs/loadtest.md).
    master = locust(*headless(address, 12, 100, *options), *distributed)
    join = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
    workers = [locust(*join) for _ in range(2)]
    log = until_all_kinds(master, REQUESTS)
    master.send_signal(signal.SIGINT)
    code, _, rest = ended(master)
    log += rest
    assert code == 0, log
    assert [ended(worker)[0] for worker in workers] == [0, 0]
    assert "2 workers connected" in log
    assert re.search(r"passed failed: 0.00% of [1-9]", log)
    assert (log.count("passed "), log.count("BROKEN ")) == (5, 0)
    page = report.read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert all(kind in page for kind in KINDS)


def test_a_broken_threshold_is_the_exit_code(locust: Locust, address: str) -> None:
    code, _, log = ended(
        locust(*headless(address, 2, 2, "--most-p50", "1000", "--most-p99", "0.001", "Analyst"))
    )
    assert code == 1
    assert log.count("passed") == 2
    assert re.search(r"BROKEN Reconstruct p99: \d+ ms, [\d.]+ times the unloaded", log)


@pytest.mark.faults
def test_a_server_that_goes_away_breaks_the_run(locust: Locust, stub_repository: Path) -> None:
    """Streams and calls fail, are counted, and the users go on asking."""
    with serving(Engine.ONNX, stub_repository, print) as address:
        process = locust(*headless(address, 6, 100, *LENIENT, "--json"))
        log = until_all_kinds(process, REQUESTS)
    log += until_all_kinds(process, FAILURES)
    process.send_signal(signal.SIGINT)
    code, output, rest = ended(process)
    log += rest
    assert code == 1
    assert "BROKEN failed: " in log
    failures = {entry["name"]: entry["num_failures"] for entry in json.loads(output)}
    assert min(failures[kind] for kind in KINDS) >= 1
    assert "Traceback" not in log


def test_without_a_server_nothing_is_begun(locust: Locust) -> None:
    code, _, log = ended(locust("--headless", "-u", "2", "-t", "20s", "--only-summary"))
    assert code == 2
    assert "is no server's address: write HOST:PORT" in log
    assert "All users spawned" not in log
    assert "Traceback" not in log
