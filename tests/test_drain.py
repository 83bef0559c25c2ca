"""Servers that are restarted under load: no call fails for callers who know two of them."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import support_sizes as sizes
from conftest import random_events
from support_drain import Pair, Process, pair
from support_stream import until
from support_swap import NO_RETRY, NOTHING, SwapLoad, Verdict, two_models
from xec.event import Event
from xec_client import Client, RetryPolicy
from xec_client.errors import ClientError

RETRY = RetryPolicy()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_models(tmp_path_factory.mktemp("two"))


async def test_no_call_fails_while_servers_are_restarted(repository: Path) -> None:
    async with pair(repository) as both:
        load = SwapLoad(both.addresses, retry=RETRY)
        await until(lambda: all(one.batcher.counts.accepted > 5 for one in both.servers))
        for number in range(4):
            await both.restart(number % 2)
        verdict = await load.end()
    assert (verdict.wrong, verdict.mixed, verdict.failed) == ([], 0, [])
    assert verdict.right.total() > 100
    assert both.computed == verdict.right.total()  # and each event was computed once


async def turned_away(both: Pair) -> Verdict:
    """Callers who never repeat a call, and leave when health says so, as a balancer has them do."""
    server = both.servers[0]
    load = SwapLoad(str(server.address), retry=NO_RETRY, streams=0)
    await until(lambda: load.verdict.right.total() > 20)
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        verdict = await load.end()
        watch.cancel()
        await stopping
    return verdict


async def test_the_delay_lets_those_turn_away_who_look_at_health(repository: Path) -> None:
    async with pair(repository, drain_delay=1.0) as both:
        verdict = await turned_away(both)
    assert (verdict.wrong, verdict.failed) == ([], [])


async def test_the_control_a_server_that_takes_no_time_to_drain(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(repository) as both:
        drain = both.servers[0].streams.drain

        def cut_off() -> None:
            drain()
            both.servers[0].batcher.close()

        monkeypatch.setattr(both.servers[0].streams, "drain", cut_off)
        verdict = await turned_away(both)
    assert verdict.wrong == []
    assert verdict.failed


class Blocking:
    """The blocking client in threads: single calls, and a stream whose source is slow."""

    def __init__(self, addresses: str, retry: RetryPolicy = RETRY) -> None:
        self.failed: list[str] = []
        self.answered = 0
        self.places: list[int] = []
        self._addresses, self._retry = addresses, retry
        self._events = list(random_events(12, seed=8))
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._single, self._stream)]
        for thread in self._threads:
            thread.start()

    def _single(self) -> None:
        with Client(self._addresses, retry=self._retry) as client:
            while not self._ended.wait(0.005):
                event = self._events[self.answered % 12]
                try:
                    answer = client.reconstruct(event, NOTHING)
                except ClientError as error:
                    self.failed.append(str(error))
                    continue
                self.answered += answer.event == event.event

    def _slow_source(self) -> Any:
        number = 0
        while not self._ended.wait(0.01 if number % 10 else 0.3):
            yield self._events[number % 12]
            number += 1

    def _stream(self) -> None:
        try:
            with Client(self._addresses, retry=self._retry) as client:
                for streamed in client.stream(self._slow_source(), NOTHING):
                    event: Event = self._events[streamed.place % 12]
                    assert streamed.result().event == event.event
                    self.places.append(streamed.place)
        except ClientError as error:
            self.failed.append(str(error))

    async def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 60)


async def test_the_blocking_client_goes_on_too(repository: Path) -> None:
    async with pair(repository) as both:
        load = Blocking(both.addresses)
        await until(lambda: len(load.places) > 5)
        for number in range(4):
            seen = len(load.places)
            await both.restart(number % 2)
            await until(lambda seen=seen: len(load.places) > seen)
        await load.end()
    assert load.failed == []
    assert load.answered > 20
    assert sorted(load.places) == list(range(len(load.places)))
    assert both.computed == load.answered + len(load.places)


async def test_a_stream_needs_another_server_to_go_on(repository: Path) -> None:
    """The control: one address, and a stream that ends with its server says what it lacks."""
    async with pair(repository) as both:
        load = Blocking(str(both.servers[0].address))
        await until(lambda: len(load.places) > 5)
        await both.servers[0].stop()
        await until(lambda: load.failed)
        await load.end()
    assert any("DRAINING" in text or "stopping" in text for text in load.failed)


@pytest.mark.faults
async def test_processes_that_are_drained_again_and_again(repository: Path, tmp_path: Path) -> None:
    """`xec serve`, ended by SIGTERM, SIGINT and `Drain` in turns; also new models in between."""
    restarts, ways = sizes.of(6, 24), (signal.SIGTERM, signal.SIGINT, None)
    both = [Process(repository, tmp_path / str(number)) for number in range(2)]
    try:
        for one in both:
            one.start()
            await one.serves()
        load = SwapLoad(",".join(one.address for one in both), retry=RETRY)
        blocking = Blocking(",".join(one.address for one in both))
        for one in both:
            await one.has_callers()
        for number in range(restarts):
            one = both[number % 2]
            assert await one.drain(ways[number % 3]) == 0
            one.start()
            await one.serves()
            await one.has_callers()
            await asyncio.sleep(3)  # until all have found it again, as docs/operations.md says
        await blocking.end()
        verdict = await load.end()
    finally:
        for one in both:
            one.kill()
    assert (verdict.wrong, verdict.failed, blocking.failed) == ([], [], [])
    assert sorted(blocking.places) == list(range(len(blocking.places)))
    total = verdict.right.total() + blocking.answered + len(blocking.places)
    sys.stdout.write(f"\ndrain: {restarts} restarts, 0 failed calls, {total} events answered\n")
