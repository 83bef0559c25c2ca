"""What a stream may hold, how many there may be, and how they end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from support_server import Code, Events, Running, details, refusal, running, still_serves
from support_stream import (
    Stream,
    another_client,
    held_back,
    ids,
    opened,
    settings,
    steady,
    until,
)
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.events.event_stream import EventStream
from xec_server.events.streams import StreamPolicy

MANY = 3000
WINDOW = 16


async def flood(stream: Stream, events: Events) -> int:
    """Write and never read, until the call ends or nothing more goes; how many were written."""
    message = codec.event_to_proto(next(iter(events(1))))
    for number in range(MANY):
        event = pb.StreamEvent(id=number, event=message)
        write = asyncio.ensure_future(stream.call.write(pb.StreamRequest(event=event)))
        done, _ = await asyncio.wait({write}, timeout=1)
        if not done:  # to cancel the write would cancel the call
            write.add_done_callback(lambda task: task.cancelled() or task.exception())
            return number
        if write.exception() is not None:
            return number
    return MANY


async def held_by_one_that_never_reads(repository: Path, events: Events) -> Any:
    policy = StreamPolicy(window=WINDOW)
    async with running(repository, settings=settings(policy, queue=4096, size=8)) as service:
        stream = await opened(service.stub)
        written = await flood(stream, events)
        counts = service.server.streams.counts
        await steady(lambda: counts.events)
        found = written, counts.events, counts.most_held, service.server.streams.held
        stream.call.cancel()
        await until(lambda: service.server.streams.open == 0)
        await still_serves(service, events)
        return found


async def test_a_client_that_never_reads_cannot_fill_the_memory(
    stub_repository: Path, events: Events
) -> None:
    written, read, most, held = await held_by_one_that_never_reads(stub_repository, events)
    assert most == WINDOW  # answers as much as events
    assert held == WINDOW  # it hangs there: nothing is read any more
    assert read < written < MANY


async def test_the_control_without_the_window_it_does(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = EventStream._accept

    def boundless(self: EventStream, message: pb.StreamEvent) -> None:
        self._window = 10**9
        accept(self, message)

    monkeypatch.setattr(EventStream, "_accept", boundless)
    _, _, most, _ = await held_by_one_that_never_reads(stub_repository, events)
    assert most > 10 * WINDOW


async def test_one_that_does_not_acknowledge_gets_no_further(
    stub_repository: Path, events: Events
) -> None:
    policy = StreamPolicy(window=WINDOW)
    async with running(stub_repository, settings=settings(policy)) as service:
        stream = await opened(service.stub, acknowledges=True)
        batch = list(events(WINDOW + 1))
        await stream.send(*enumerate(batch[:WINDOW]))
        found = await stream.answers(WINDOW)
        await stream.acknowledge(3)
        await stream.send((WINDOW, batch[WINDOW]))  # in the place of the acknowledged one
        found.append(await stream.answer())
        assert sorted(ids(found)) == list(range(WINDOW + 1))
        await stream.send((WINDOW + 1, batch[0]))
        await refusal(stream.call.read(), Code.INVALID_ARGUMENT, "WINDOW_EXCEEDED")
        await until(lambda: service.server.streams.open == 0)
        counts = service.server.streams.counts
        assert (counts.most_held, counts.unacknowledged, counts.unanswered) == (WINDOW, WINDOW, 0)


@pytest.mark.parametrize(("asked", "granted"), [(0, 64), (5, 5), (10**6, 64)])
async def test_the_window_is_what_both_allow(
    stub_repository: Path, asked: int, granted: int
) -> None:
    async with running(stub_repository, settings=settings()) as service:
        call = service.stub.ReconstructStream()
        await call.write(pb.StreamRequest(open=pb.StreamOpen(window=asked)))
        assert (await call.read()).opened.window == granted
        await Stream(call).end()


async def test_a_slow_reader_does_not_hold_up_others(stub_repository: Path, events: Events) -> None:
    policy = StreamPolicy(window=WINDOW)
    async with (
        running(stub_repository, settings=settings(policy, size=8)) as service,
        another_client(service) as other,
    ):
        slow = await opened(service.stub)
        await flood(slow, events)
        assert await steady(lambda: service.server.streams.held) == WINDOW  # it hangs
        quick = await opened(other)
        reading = asyncio.ensure_future(quick.answers(100))
        await quick.send(*enumerate(events(100)))
        assert sorted(ids(await reading)) == list(range(100))
        assert service.server.streams.held >= WINDOW  # it still does
        slow.call.cancel()


async def test_half_close_answers_all_and_ends_well(stub_repository: Path, events: Events) -> None:
    async with held_back(stub_repository) as (service, _):
        stream = await opened(service.stub)
        await stream.send(*enumerate(events(20)))
        await stream.call.done_writing()
        await until(lambda: service.server.streams.held == 20)
        service.engine.passes.release(10**6)
        assert sorted(ids(await stream.rest())) == list(range(20))


async def test_cancelling_drops_what_has_not_begun(stub_repository: Path, events: Events) -> None:
    async with held_back(stub_repository) as (service, order):
        stream = await opened(service.stub)
        await stream.send(*enumerate(events(20)))
        await until(lambda: service.server.batcher.waiting == 19)
        stream.call.cancel()
        await until(lambda: service.server.streams.open == 0)
        counts = service.server.streams.counts
        assert (counts.events, counts.answered, counts.unanswered) == (20, 0, 20)
        service.engine.passes.release(10**6)
        await still_serves(service, events)
        assert service.server.batcher.counts.abandoned == 19
        assert len(order.served) == 2  # the one that had begun, and the last one


async def test_the_control_without_cancelling_all_are_computed(
    stub_repository: Path, events: Events
) -> None:
    async with held_back(stub_repository) as (service, order):
        stream = await opened(service.stub)
        await stream.send(*enumerate(events(20)))
        service.engine.passes.release(10**6)
        await stream.end()
        assert len(order.served) == 20
        assert service.server.batcher.counts.abandoned == 0


async def outcome(call: Any) -> str:
    """How a new stream goes: opened, or refused with the time to come back."""
    await call.write(pb.StreamRequest(open=pb.StreamOpen()))
    (message,) = await asyncio.gather(call.read(), return_exceptions=True)
    if not isinstance(message, BaseException):
        assert message.opened.window
        return "opened"
    assert message.code() == Code.RESOURCE_EXHAUSTED
    found = details(message)
    assert found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() > 0
    return str(found["ErrorInfo"].reason)


async def tried(service: Running, clients: int, each: int) -> list[str]:
    """What becomes of many streams, none of which is closed."""
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(another_client(service)) for _ in range(clients)]
        calls = [stub.ReconstructStream() for stub in stubs for _ in range(each)]
        found = await asyncio.gather(*(outcome(call) for call in calls))
        assert service.server.streams.open == found.count("opened")
        for call in calls:
            call.cancel()
        await until(lambda: service.server.streams.open == 0)
    return list(found)


async def test_a_thousand_streams_of_ten_clients(stub_repository: Path, events: Events) -> None:
    policy = StreamPolicy(streams=20, per_client=16)
    async with running(stub_repository, settings=settings(policy)) as service:
        found = await tried(service, clients=10, each=100)
        assert (found.count("opened"), found.count("TOO_MANY_STREAMS")) == (20, 980)
        assert service.server.streams.counts.refused == 980
        stream = await opened(service.stub)  # there is room again
        await stream.send(*enumerate(events(3)))
        assert len(await stream.end()) == 3


async def test_one_client_does_not_get_them_all(stub_repository: Path) -> None:
    policy = StreamPolicy(streams=20, per_client=16)
    async with running(stub_repository, settings=settings(policy)) as service:
        assert (await tried(service, clients=1, each=90)).count("opened") == 16


async def test_the_control_with_other_limits_more_are_opened(stub_repository: Path) -> None:
    policy = StreamPolicy(streams=50, per_client=50)
    async with running(stub_repository, settings=settings(policy)) as service:
        assert (await tried(service, clients=1, each=60)).count("opened") == 50


async def test_draining_answers_what_was_accepted(stub_repository: Path, events: Events) -> None:
    async with held_back(stub_repository) as (service, _):
        stream = await opened(service.stub)
        idle = await opened(service.stub)
        batch = list(events(20))
        await stream.send(*enumerate(batch[:10]))
        await until(lambda: service.server.streams.counts.events == 10)
        stopping = asyncio.ensure_future(service.server.stop())
        await refusal(idle.call.read(), Code.UNAVAILABLE, "DRAINING")
        service.engine.passes.release(10**6)
        found = await stream.answers(10)
        assert {answer.WhichOneof("outcome") for answer in found} == {"response"}
        assert sorted(ids(found)) == list(range(10))
        await refusal(stream.call.read(), Code.UNAVAILABLE, "DRAINING")
        await stopping
        counts = service.server.streams.counts
        assert (counts.answered, counts.unanswered) == (10, 0)


async def test_an_old_stream_ends_in_good_order(stub_repository: Path, events: Events) -> None:
    policy = StreamPolicy(window=WINDOW, longest=0.5)
    async with held_back(stub_repository, policy) as (service, _):
        stream = await opened(service.stub)
        await stream.send(*enumerate(events(5)))
        await until(lambda: service.server.streams.counts.events == 5)
        await asyncio.sleep(0.6)
        service.engine.passes.release(10**6)
        assert sorted(ids(await stream.answers(5))) == list(range(5))
        text, _ = await refusal(stream.call.read(), Code.UNAVAILABLE, "STREAM_TOO_OLD")
        assert "open another one" in text
        again = await opened(service.stub)
        await again.send((0, next(iter(events(1)))))
        assert len(await again.end()) == 1


async def test_a_client_that_never_reads_does_not_keep_the_server_alive(
    stub_repository: Path, events: Events
) -> None:
    async with running(stub_repository, settings=settings(StreamPolicy(window=WINDOW))) as service:
        stream = await opened(service.stub)
        await flood(stream, events)
        await asyncio.wait_for(service.server.stop(), 30)
        await until(lambda: service.server.streams.open == 0)
        counts = service.server.streams.counts
        assert counts.events == counts.answered + counts.unanswered
        assert counts.unanswered == WINDOW
