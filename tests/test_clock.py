"""The clock on the wall jumps under a server: deadlines, delays and caches do not notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from conftest import random_events
from support_clock import Wall
from support_conditions import NOTE, address_of, writer
from support_daq import ended, free_port, xec
from support_overload import PACED
from support_server import request
from support_stream import opened
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub

HOUR = 3600
SECONDS = 0.15  # of the engine for each event
A, B = DeadList.of((17, 18)), DeadList.of((300,))
FRESH = """
from xec.conditions.cache import ConditionsCache
ConditionsCache.__init__.__kwdefaults__.update(fresh=0.3, patience=30)
"""
WALL = """
import asyncio, time
asyncio.BaseEventLoop.time = lambda self: time.time()
"""


def to_1970() -> int:
    return -int(time.time()) + HOUR


@dataclass
class Served:
    stub: Any
    wall: Wall
    database: Path
    process: Any


@asynccontextmanager
async def served(
    repository: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, first: str = ""
) -> AsyncIterator[Served]:
    """A server whose engine is slow, which waits for more events, and takes lists by run."""
    database, address = folder / "conditions.sqlite", f"127.0.0.1:{free_port()}"
    with writer(address_of(database)) as store:
        store.record(Tag.ONLINE, [Change(Runs(0, 9999), A)], NOTE)
    with monkeypatch.context() as environment:
        wall = Wall(folder, environment)
        options = ("--sessions", 1, "--batch-size", 2, "--batch-delay-ms", 400, "--tag", "online")
        process = xec(
            *("serve", "--model", repository, "--conditions", database, "--listen", address),
            *options,
            first=PACED.format(seconds=SECONDS) + FRESH + first,
        )
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert address in line, line or process.communicate()[1]
        async with grpc.aio.insecure_channel(address) as channel:
            yield Served(ReconstructionStub(channel), wall, database, process)
    finally:
        process.kill()
        process.communicate()


async def outcomes(place: Served, jump: int) -> list[str]:
    """How calls end, and events of a stream with deadlines, over which the clock jumps."""
    event = next(iter(random_events(1)))

    async def end(timeout: float) -> str:
        try:
            await place.stub.Reconstruct(request(event), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    assert await end(30) == "OK"
    stream = await opened(place.stub)
    over = [asyncio.create_task(end(5)) for _ in range(4)]
    await asyncio.sleep(0.1)  # they are in the server
    await stream.send((1, event), timeout=5)
    await stream.send((2, event), timeout=0.05)  # less than those before it take
    await asyncio.sleep(0.1)  # half of them still wait
    place.wall.move(jump)
    found = {answer.id: answer.error.reason or "OK" for answer in await stream.answers(2)}
    ends = [*(await asyncio.gather(*over)), await end(5), await end(0.05)]
    await asyncio.sleep(0.6)  # the one that was given up has left the queue
    alone = asyncio.create_task(end(5))
    await asyncio.sleep(0.2)  # it waits for another one
    place.wall.move(jump - HOUR // 6)
    return [*ends, await alone, found[1], found[2]]


def as_ever(found: list[str]) -> bool:
    *calls, last = found or [""]
    expected = ["OK"] * 5 + ["DEADLINE_EXCEEDED", "OK", "OK"]
    return calls == expected and last in ("DEADLINE_PASSED", "QUEUE_TOO_LONG")


async def test_the_clock_jumps(
    stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(stub_repository, tmp_path, monkeypatch) as place:
        for jump in (HOUR, -HOUR, to_1970(), 0):
            found = await outcomes(place, jump)
            assert as_ever(found), (jump, found)


@pytest.mark.faults
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_the_control_a_server_that_goes_by_the_wall_is_caught(
    stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    async with served(stub_repository, tmp_path, monkeypatch, WALL) as place:
        for jumps in range(1, 6):  # whether events still wait at a jump is a matter of luck
            found: list[str] = []
            with suppress(TimeoutError):  # an event that waits for an hour
                async with asyncio.timeout(15):
                    found = await outcomes(place, jumps * jump)
            if not as_ever(found):
                return
        pytest.fail("five jumps changed nothing")


async def test_lists_are_as_fresh_as_ever_and_the_log_shows_the_jump(
    stub_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = replace(next(iter(random_events(1))), run=5)
    async with served(stub_repository, tmp_path, monkeypatch) as place:

        async def list_id() -> str:
            answer = await place.stub.Reconstruct(request(event), timeout=30)
            assert answer.provenance.dead_list_stale_since == ""
            return str(answer.provenance.dead_list_id)

        assert await list_id() == A.list_id
        place.wall.move(to_1970())
        with writer(address_of(place.database)) as store:
            store.record(Tag.ONLINE, [Change(Runs(0, 9999), B)], NOTE)
        async with asyncio.timeout(20):
            while await list_id() != B.list_id:
                await asyncio.sleep(0.05)
        place.process.terminate()
        status, _, said = await asyncio.to_thread(ended, place.process)
    assert status == 0
    last = said.splitlines()[-1]
    assert "stopping" in last
    assert last.startswith("1970-01-01")  # the shim did move the clock
