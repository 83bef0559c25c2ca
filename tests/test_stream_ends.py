"""A stream whose server stops: sent = answered + refused in-band + named as unanswered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support_server import Events, Running, running
from support_stream import settings, until
from xec.event import Event
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client import AsyncClient, Client, Streamed, errors
from xec_server.events.event_stream import EventStream


class Source:
    """Events without an end, which knows how many were taken."""

    def __init__(self, events: Events) -> None:
        self._events = list(events(20))
        self.taken = 0

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self._events[self.taken % 20]
            self.taken += 1
            yield event


@dataclass
class Seen:
    """What a client was told of its events, by their places."""

    answered: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)  # in-band: the server was stopping already
    unanswered: list[int] = field(default_factory=list)
    reason: str = ""

    def note(self, streamed: Streamed) -> None:
        if streamed.error is None:
            self.answered.append(streamed.place)
        else:
            assert streamed.error.reason == "DRAINING"
            self.refused.append(streamed.place)

    def end(self, error: errors.ClientError) -> None:
        self.unanswered = [one.place for one in error.unanswered]
        self.reason = error.reason

    @property
    def all(self) -> list[int]:
        return sorted(self.answered + self.refused + self.unanswered)


async def awaiting(address: str, source: Source, seen: Seen) -> None:
    async with AsyncClient(address) as client:
        try:
            async for streamed in client.stream(source, window=16):
                seen.note(streamed)
        except errors.Unavailable as error:
            seen.end(error)


def blocking(address: str, source: Source, seen: Seen) -> None:
    with Client(address) as client:
        try:
            for streamed in client.stream(source, window=16):
                seen.note(streamed)
        except errors.Unavailable as error:
            seen.end(error)


async def ended(
    service: Running, events: Events, after: int, is_blocking: bool
) -> tuple[Source, Seen]:
    """What a client saw of a stream whose server stopped after so many answers."""
    source, seen = Source(events), Seen()
    arguments = (str(service.server.address), source, seen)
    if is_blocking:
        streaming = asyncio.ensure_future(asyncio.to_thread(blocking, *arguments))
    else:
        streaming = asyncio.ensure_future(awaiting(*arguments))
    await until(lambda: len(seen.answered) >= after)
    await service.server.stop()
    await asyncio.wait_for(streaming, 30)
    return source, seen


@pytest.mark.parametrize("is_blocking", [True, False])
@pytest.mark.parametrize("after", [1, 40, 137])
async def test_nothing_is_lost_without_being_named(
    stub_repository: Path, events: Events, after: int, is_blocking: bool
) -> None:
    async with running(stub_repository, settings=settings(size=4, workers=2)) as service:
        source, seen = await ended(service, events, after, is_blocking)
        # grpc.aio does not always tell what the server said, see xec_client.streaming_async.
        assert seen.reason in (("DRAINING",) if is_blocking else ("DRAINING", ""))
        assert seen.all == list(range(source.taken))
        # All that the server had accepted arrived; the rest it never took.
        told = len(seen.answered) + len(seen.refused)
        counts = service.server.streams.counts
        assert (counts.events, counts.answered, counts.unanswered) == (told, told, 0)
        assert service.server.batcher.counts.computed == len(seen.answered)


@pytest.mark.parametrize("is_blocking", [True, False])
async def test_the_control_an_answer_that_is_dropped_is_named(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch, is_blocking: bool
) -> None:
    write = EventStream._write

    async def lossy(self: EventStream, send: object) -> None:
        async def all_but_one(message: pb.StreamResponse) -> None:
            if message.answer.id != 7:
                await send(message)  # type: ignore[operator]

        await write(self, all_but_one)

    monkeypatch.setattr(EventStream, "_write", lossy)
    async with running(stub_repository, settings=settings(size=4, workers=2)) as service:
        source, seen = await ended(service, events, 20, is_blocking)
        assert seen.all == list(range(source.taken))
        assert 7 in seen.unanswered
        told = len(seen.answered) + len(seen.refused)
        assert service.server.streams.counts.answered == told + 1
