"""The open-loop generator against real servers: what it must show, and what a closed loop hides."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
from typer import Typer
from typer.testing import CliRunner

import openloop
import xec_client.settings
import xec_loadtest.connections
from conftest import random_events
from support_server import SETTINGS, Running, running
from xec_client import AsyncClient
from xec_client.settings import CHANNEL_OPTIONS
from xec_loadtest.arrivals import Arrivals, schedule
from xec_loadtest.connections import asking
from xec_loadtest.knee import find_knee, holds
from xec_loadtest.latency import Point, summary
from xec_loadtest.record import Outcome, Record
from xec_loadtest.senders import closed_loop, open_loop

ROOT = Path(__file__).resolve().parents[1]
EVENTS = list(random_events(8))
NO_LIMIT = 1e9


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def stall(service: Running, after: float, seconds: float) -> float:
    """Let the engine answer nothing for so long; the seconds that it took."""
    await asyncio.sleep(after)
    start, passes = time.perf_counter(), service.engine.passes
    service.engine.hold()
    await asyncio.sleep(seconds)
    service.engine.passes.release(10**6)
    service.engine.passes = passes
    return time.perf_counter() - start


async def test_open_loop_shows_a_stall_that_a_closed_loop_hides(stub_repository: Path) -> None:
    async with (
        running(stub_repository) as service,
        asking(str(service.server.address), EVENTS, timeout=20, connections=4) as ask,
    ):
        intended = schedule(Arrivals.POISSON, 100, 2.5, seed=1)
        stalled, opened = await asyncio.gather(
            stall(service, 0.5, 0.8), open_loop(ask, intended, 2.5)
        )
        again, closed = await asyncio.gather(stall(service, 0.5, 0.8), closed_loop(ask, 1, 3))
    open_point, closed_point = summary(opened, NO_LIMIT), summary(closed, NO_LIMIT)
    assert open_point.answered == len(intended)
    assert closed_point.answered > 150
    # 80 of 250 events were to be sent during the stall; the one caller saw it once.
    assert open_point.p99 is not None
    assert closed_point.p99 is not None
    assert open_point.p99 > 0.8 * stalled
    assert closed_point.p99 < 0.4 * again
    assert closed_point.worst is not None
    assert closed_point.worst > 0.8 * again


async def test_sends_while_nothing_comes_back(stub_repository: Path) -> None:
    """150 calls are under way in the server although not one has been answered."""
    async with running(stub_repository) as service:
        service.engine.hold()
        address = str(service.server.address)
        async with asking(address, EVENTS, timeout=20, connections=2) as ask:
            sending = asyncio.ensure_future(open_loop(ask, np.zeros(150), 1.0))
            await until(lambda: service.server.batcher.counts.accepted == 150)
            service.engine.passes.release(10**6)
            assert summary(await sending, NO_LIMIT).answered == 150


async def test_one_connection_would_hold_calls_back(stub_repository: Path) -> None:
    """Control: what is beyond 100 waits in the client, where no server can refuse it."""
    async with running(stub_repository) as service:
        service.engine.hold()
        address = str(service.server.address)
        async with asking(address, EVENTS, timeout=20, connections=1) as ask:
            sending = asyncio.ensure_future(open_loop(ask, np.zeros(150), 1.0))
            await until(lambda: service.server.batcher.counts.accepted == 100)
            await asyncio.sleep(0.2)
            assert service.server.batcher.counts.accepted == 100
            service.engine.passes.release(10**6)
            await sending


async def test_refusals_are_those_of_the_server(stub_repository: Path) -> None:
    async with running(stub_repository) as service:
        service.engine.hold()
        address = str(service.server.address)
        async with asking(address, EVENTS, timeout=20, connections=8) as ask:
            sending = asyncio.ensure_future(open_loop(ask, np.zeros(500), 1.0))
            counts = service.server.batcher.counts
            await until(lambda: counts.accepted + counts.refused == 500)
            service.engine.passes.release(10**6)
            point = summary(await sending, NO_LIMIT)
    assert counts.refused >= 500 - SETTINGS.batching.queue - 2 * SETTINGS.batching.size
    assert (point.answered, point.refused) == (counts.accepted, counts.refused)
    assert (point.late, point.failed) == (0, 0)


async def test_late_answers_are_no_answers(stub_repository: Path) -> None:
    async with running(stub_repository) as service:
        address = str(service.server.address)
        async with asking(address, EVENTS, timeout=0.3, connections=1) as ask:
            service.engine.hold()
            point = summary(await open_loop(ask, np.zeros(5), 1.0), NO_LIMIT)
    assert (point.answered, point.late) == (0, 5)
    assert not holds(point)


async def lagging(block: float) -> Point:
    """The summary of a generator in which each call takes the process for so long."""

    async def ask(number: int) -> None:
        time.sleep(block)
        await asyncio.sleep(0.1)

    record = await open_loop(ask, schedule(Arrivals.FIXED, 200, 0.5, seed=1), 0.5)
    return summary(record, NO_LIMIT)


async def test_a_generator_that_cannot_keep_up_says_so() -> None:
    behind = await lagging(0.01)  # 100 events at 200/s, of which it can do 100/s
    assert not behind.valid
    assert behind.lag > 0.2
    assert not holds(behind)


async def test_calls_beyond_the_schedule_are_waited_for_and_ordered() -> None:
    async def ask(number: int) -> None:
        await asyncio.sleep(0.05 if number == 0 else 0)

    record: Record = await open_loop(ask, np.array([0.0, 0.01, 0.02]), 0.03)
    assert (np.diff(record.intended) > 0).all()
    assert record.done[0] > record.done[2]
    assert (record.outcome == Outcome.ANSWERED).all()


def connections_to(port: int) -> int:
    """Of this process."""
    found = psutil.Process().net_connections("tcp")
    return sum(one.raddr != () and one.raddr.port == port for one in found)


@pytest.mark.parametrize("shared", [False, True])
async def test_clients_of_one_process_have_connections_of_their_own(
    stub_repository: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """With gRPC's default, the control, they share one."""
    if shared:
        options = [pair for pair in CHANNEL_OPTIONS if pair[0] != "grpc.use_local_subchannel_pool"]
        monkeypatch.setattr(xec_client.settings, "CHANNEL_OPTIONS", options)
    async with running(stub_repository) as service:
        address = service.server.address
        before = connections_to(address.port)
        async with AsyncClient(str(address)) as one, AsyncClient(str(address)) as other:
            await one.reconstruct(EVENTS[0], ())
            await other.reconstruct(EVENTS[0], ())
            assert connections_to(address.port) - before == (1 if shared else 2)


# --- the command ---------------------------------------------------------------------------------


def run_openloop(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "loadtest/openloop.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_starts_a_server_and_finds_its_knee(
    stub_repository: Path, tmp_path: Path
) -> None:
    picture, figures = tmp_path / "load.png", tmp_path / "load.json"
    short = ["--seconds", "0.6", "--warm-up", "0.5", "--fractions", "3,0.1", "--limit", "50"]
    files = ["--out", str(picture), "--json", str(figures)]
    done = run_openloop("--engine", "onnx", "--model", str(stub_repository), *short, *files)
    assert done.returncode == 0, done.stderr
    assert "embedded engine" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    (curve,) = json.loads(figures.read_text())["curves"]
    low, high = (Point(**fields) for fields in curve["points"])
    assert low.offered < curve["capacity"] < high.offered
    assert low.answered == low.events > 0
    assert curve["limit"] == pytest.approx(50 * curve["unloaded"])
    knee = find_knee([low, high])
    assert curve["knee"] == (None if knee is None else asdict(knee))


@pytest.mark.faults
def test_the_command_measures_through_triton(tmp_path: Path) -> None:
    figures = tmp_path / "load.json"
    short = ["--seconds", "2", "--warm-up", "1", "--fractions", "0.2", "--json", str(figures)]
    done = run_openloop("--engine", "triton", *short)
    assert done.returncode == 0, done.stderr
    (curve,) = json.loads(figures.read_text())["curves"]
    assert curve["name"] == "gateway and Triton"
    assert curve["points"][0]["answered"] > 0


APP = Typer()
APP.command()(openloop.openloop)


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(APP, list(arguments))
    assert result.exception is not None
    return f"{getattr(result.exception, 'exit_code', None)}: {result.exception}"


def test_bad_input_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(xec_loadtest.connections, "READY_SECONDS", 0.2)
    assert refused("--fractions", "fast").startswith("2: 'fast' is no list of numbers")
    assert refused("--fractions", "0.5,-1").startswith("2: The offered rates are positive")
    assert refused("--events", str(tmp_path / "no.root")).startswith("3: ")
    assert refused("--server", "127.0.0.1:1").startswith("7: The server at 127.0.0.1:1 was not")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    done = run_openloop("--engine", "onnx", "--model", str(tmp_path))
    assert done.returncode == 7
    assert done.stderr.startswith("openloop: The server ended before it was ready: ")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 3
