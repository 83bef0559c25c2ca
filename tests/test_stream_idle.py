"""Streams in which nothing happens: half a message is not held for long, and our clients go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import unquote

import pytest

from support_http2 import connected, message
from support_server import Code, Events, Running, refusal, running
from support_server_process import Served, serving
from support_stream import held_back, ids, opened, settings, steady, until
from xec.event import Event
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client import AsyncClient, Client, Streamed, conversation, errors
from xec_server.events.streams import StreamPolicy

IDLE = 0.4
POLICY = StreamPolicy(window=64, idle=IDLE)
OPENING = message(pb.StreamRequest(open=pb.StreamOpen()).SerializeToString())
HALF = message(bytes(16_000_000))[:8_000_000]
EACH = 16  # streams that one client may have


async def test_a_stream_in_which_nothing_happens_ends(
    stub_repository: Path, events: Events
) -> None:
    async with running(stub_repository, settings=settings(POLICY)) as service:
        stream = await opened(service.stub)
        await stream.send(*enumerate(events(5)))
        assert sorted(ids(await stream.answers(5))) == list(range(5))
        text, _ = await refusal(stream.call.read(), Code.UNAVAILABLE, "STREAM_IDLE")
        assert "open another one" in text
        await until(lambda: service.server.streams.open == 0)
        counts = service.server.streams.counts
        assert (counts.events, counts.answered) == (5, 5)


async def test_the_control_without_the_limit_it_stays(
    stub_repository: Path, events: Events
) -> None:
    policy = StreamPolicy(window=64)
    async with running(stub_repository, settings=settings(policy)) as service:
        stream = await opened(service.stub)
        await asyncio.sleep(3 * IDLE)
        await stream.send(*enumerate(events(2)))
        assert len(await stream.end()) == 2


async def test_a_stream_whose_events_take_long_is_not_idle(
    stub_repository: Path, events: Events
) -> None:
    async with held_back(stub_repository, POLICY) as (service, _):
        stream = await opened(service.stub)
        await stream.send(*enumerate(events(5)))
        await until(lambda: service.server.streams.held == 5)
        await asyncio.sleep(3 * IDLE)
        service.engine.passes.release(10**6)
        assert len(await stream.end()) == 5


async def test_an_empty_acknowledgement_keeps_a_stream_open(
    stub_repository: Path, events: Events
) -> None:
    async with running(stub_repository, settings=settings(POLICY)) as service:
        stream = await opened(service.stub)
        for _ in range(9):
            await asyncio.sleep(IDLE / 4)
            await stream.acknowledge()
        await stream.send(*enumerate(events(2)))
        assert len(await stream.end()) == 2


@pytest.mark.parametrize("reads", [True, False])
async def test_half_a_message_ends_the_stream(stub_repository: Path, reads: bool) -> None:
    """Whether or not its client opens windows for what it is told."""
    async with (
        running(stub_repository, settings=settings(POLICY)) as service,
        connected(str(service.server.address), answers=reads) as connection,
    ):
        call = await connection.call("ReconstructStream")
        await connection.send(call, OPENING + HALF[:300_000])
        reply = await connection.reply(call)
        assert reply.status == str(Code.UNAVAILABLE.value[0])
        assert "brings no whole message" in unquote(reply.headers["grpc-message"])
        assert service.server.streams.open == 0


async def test_one_that_takes_no_answers_keeps_its_place(
    stub_repository: Path, events: Events
) -> None:
    """Its status could not be sent before them, and what it holds would be nobody's."""
    sent = [
        pb.StreamRequest(event=pb.StreamEvent(id=number, event=codec.event_to_proto(event)))
        for number, event in enumerate(events(60))
    ]
    async with (
        running(stub_repository, settings=settings(POLICY)) as service,
        connected(str(service.server.address), answers=False) as connection,
    ):
        call = await connection.call("ReconstructStream")
        whole = b"".join(message(one.SerializeToString()) for one in sent)
        await connection.send(call, OPENING + whole)
        await steady(lambda: service.server.streams.counts.answered)
        await asyncio.sleep(3 * IDLE)
        counts = service.server.streams.counts
        assert service.server.streams.open == 1
        assert 0 < counts.answered < counts.events == 60
        connection.h2.increment_flow_control_window(10**6)
        connection.h2.increment_flow_control_window(10**6, call)
        await connection.flush()
        assert (await connection.reply(call)).status == str(Code.UNAVAILABLE.value[0])
        assert counts.answered == 60


WITH_LIMIT = """
import sys
from xec_server.events.streams import StreamPolicy
StreamPolicy.__init__.__defaults__ = (*StreamPolicy.__init__.__defaults__[:4], {idle}, 3600)
from xec.cli import main
sys.argv = ["xec", *sys.argv[1:]]
main()
"""


async def memory_of_halves(served: Served, rounds: int) -> list[float]:
    """Megabytes that a server holds after each round of 16 new streams with half a message of 8 MB.

    A round ends when its streams have ended; where none does, with their connection still there.
    """
    taken = []
    async with AsyncExitStack() as stack:
        before = served.resident
        for _ in range(rounds):
            one = await stack.enter_async_context(connected(served.address))
            calls = [await one.call("ReconstructStream") for _ in range(EACH)]
            sent = await asyncio.gather(*(one.send(call, OPENING + HALF) for call in calls))
            assert sum(sent) >= EACH * len(HALF)
            ends = (one.reply(call, 6) for call in calls)
            await asyncio.gather(*ends, return_exceptions=True)
            taken.append(served.resident - before)
    return taken


async def test_the_memory_of_halves_is_used_again(stub_repository: Path, tmp_path: Path) -> None:
    code = WITH_LIMIT.format(idle=3)
    with serving(stub_repository, tmp_path, code=code) as served:
        taken = await memory_of_halves(served, 3)
    assert taken[-1] < 1.5 * EACH * len(HALF) / 1e6, taken


async def test_the_control_without_the_limit_it_adds_up(
    stub_repository: Path, tmp_path: Path
) -> None:
    code = WITH_LIMIT.format(idle=3600)
    with serving(stub_repository, tmp_path, code=code) as served:
        taken = await memory_of_halves(served, 3)
    assert taken[-1] > 2.5 * EACH * len(HALF) / 1e6, taken


class Hesitant:
    """Events from a source that lets wait before some of them."""

    def __init__(self, events: Events, pauses: dict[int, float], repeated: int = 1) -> None:
        self._events = list(events(12)) * repeated
        self._pauses = pauses
        self.threads: list[int] = []
        """Of this process, after each pause."""

    def __iter__(self) -> Iterator[Event]:
        for place, event in enumerate(self._events):
            time.sleep(self._pauses.get(place, 0))
            self.threads.append(threading.active_count())
            yield event

    async def awaited(self) -> AsyncIterator[Event]:
        for place, event in enumerate(self._events):
            await asyncio.sleep(self._pauses.get(place, 0))
            yield event


def blocking(address: str, source: Hesitant, look: Callable[[], float]) -> list[Streamed]:
    found = []
    with Client(address) as client:
        for streamed in client.stream(source, window=4):
            found.append(streamed)
            time.sleep(look())
    return found


async def awaiting(address: str, source: Hesitant, look: Callable[[], float]) -> list[Streamed]:
    found = []
    async with AsyncClient(address) as client:
        async for streamed in client.stream(source.awaited(), window=4):
            found.append(streamed)
            await asyncio.sleep(look())
    return found


async def streamed(
    service: Running, is_blocking: bool, source: Hesitant, look: Callable[[], float] = lambda: 0.0
) -> list[Streamed]:
    address = str(service.server.address)
    if is_blocking:
        return await asyncio.to_thread(blocking, address, source, look)
    return await awaiting(address, source, look)


def are_all(found: list[Streamed], count: int = 12) -> bool:
    """Whether each event is answered, and once."""
    return sorted(one.place for one in found if one.error is None) == list(range(count))


@pytest.mark.parametrize("is_blocking", [True, False])
async def test_our_clients_go_on_unnoticed(
    stub_repository: Path, events: Events, is_blocking: bool
) -> None:
    async with running(stub_repository, settings=settings(POLICY)) as service:
        # The longer one outlasts more calls than a call is tried again.
        source = Hesitant(events, {3: 1.5 * IDLE, 7: 8 * IDLE})
        assert are_all(await streamed(service, is_blocking, source))
        assert service.server.streams.counts.opened >= 7
        # Those of calls that ended do not wait for the source as well.
        assert not is_blocking or source.threads[7] <= source.threads[6] + 2


@pytest.mark.parametrize("is_blocking", [True, False])
async def test_a_caller_that_lets_answers_wait_loses_none(
    stub_repository: Path, events: Events, is_blocking: bool
) -> None:
    async with running(stub_repository, settings=settings(POLICY)) as service:
        waits = iter([0.0, 3 * IDLE, 0.0, 2 * IDLE])
        source = Hesitant(events, {})
        assert are_all(await streamed(service, is_blocking, source, lambda: next(waits, 0.0)))
        counts = service.server.streams.counts
        assert counts.opened >= 2
        assert counts.events == counts.answered == 12


@pytest.mark.parametrize("is_blocking", [True, False])
async def test_an_old_stream_goes_on_in_another(
    stub_repository: Path, events: Events, is_blocking: bool
) -> None:
    policy = StreamPolicy(window=64, longest=IDLE)
    async with running(stub_repository, settings=settings(policy)) as service:
        source = Hesitant(events, dict.fromkeys(range(12), IDLE / 3))
        assert are_all(await streamed(service, is_blocking, source))
        assert service.server.streams.counts.opened >= 3


@pytest.mark.parametrize("is_blocking", [True, False])
async def test_many_old_streams_that_end_while_events_are_on_their_way(
    stub_repository: Path, events: Events, is_blocking: bool
) -> None:
    """There grpc.aio hides the reason now and then, see `xec_client.streaming_async`."""
    policy = StreamPolicy(window=8, longest=0.05)
    async with running(stub_repository, settings=settings(policy, size=4)) as service:
        source = Hesitant(events, {}, repeated=100)
        assert are_all(await streamed(service, is_blocking, source), 1200)
        assert service.server.streams.counts.opened > 10


@pytest.mark.parametrize("is_blocking", [True, False])
async def test_the_control_a_client_that_does_not_know_the_reason_ends(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch, is_blocking: bool
) -> None:
    monkeypatch.setattr(conversation, "_OPEN_ANOTHER", frozenset())
    async with running(stub_repository, settings=settings(POLICY)) as service:
        with pytest.raises(errors.Unavailable) as caught:
            await streamed(service, is_blocking, Hesitant(events, {3: 2 * IDLE}))
        assert caught.value.reason == "STREAM_IDLE"
