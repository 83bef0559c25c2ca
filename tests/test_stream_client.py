"""`Client.stream` and `AsyncClient.stream`: order, back-pressure, errors, ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from support_client import answer_to, real_server, rich, serving
from xec.conditions.dead_list import DeadList
from xec.engines.priority import Priority
from xec.errors import UsageError
from xec.event import Event, EventBatch
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1 import reconstruction_pb2_grpc as pb_grpc
from xec_client import AsyncClient, Client, Streamed, errors

Events = Callable[..., EventBatch]
Code = grpc.StatusCode
OWN = DeadList.of(range(0, 4000, 100))
Look = Callable[[Streamed], object]
Streaming = Callable[..., list[Streamed]]


def stream_blocking(
    server: str, events: Iterable[Event], *arguments: Any, look: Look = id, **options: Any
) -> list[Streamed]:
    """All answers of the blocking client; `look` sees each before the next is asked for."""
    found = []
    with Client(server) as client:
        for streamed in client.stream(events, *arguments, **options):
            look(streamed)
            found.append(streamed)
    return found


def stream_awaiting(
    server: str, events: Iterable[Event], *arguments: Any, look: Look = id, **options: Any
) -> list[Streamed]:
    """The same of the client for asyncio."""

    async def ask() -> list[Streamed]:
        found = []
        async with AsyncClient(server) as client:
            async for streamed in client.stream(events, *arguments, **options):
                await asyncio.sleep(0)
                look(streamed)
                found.append(streamed)
        return found

    return asyncio.run(ask())


@pytest.fixture(params=[stream_blocking, stream_awaiting], ids=["Client", "AsyncClient"])
def streaming(request: pytest.FixtureRequest) -> Streaming:
    return request.param


@pytest.fixture(scope="module")
def server(stub_repository: Path) -> Iterator[str]:
    with real_server(stub_repository, OWN) as address:
        yield address


def test_all_events_are_answered(
    streaming: Streaming, server: str, events: Events, answers: Any
) -> None:
    batch = events(150)
    dead = DeadList.of([7, 4000])
    expected = answers(batch.with_dead(dead.mask))["energy"]
    found = streaming(server, iter(batch), dead, window=16)
    assert sorted(streamed.place for streamed in found) == list(range(150))
    for streamed in found:
        answer = streamed.result()
        assert (streamed.run, streamed.event) == (answer.run, answer.event)
        assert answer.event == batch.event[streamed.place]
        np.testing.assert_allclose(answer.energy.mean, expected[streamed.place], rtol=1e-4)
        assert {7, 4000} <= set(answer.recovered.channel.tolist())


def test_nothing_to_send(streaming: Streaming, server: str) -> None:
    assert streaming(server, []) == []


@pytest.mark.parametrize("window", [1, 2, 7])
def test_no_event_is_taken_before_there_is_room(
    streaming: Streaming, server: str, events: Events, window: int
) -> None:
    """Events that were taken from their source and not yet by the caller: the window at most."""
    under_way, most = 0, 0
    lock = threading.Lock()

    def source() -> Iterator[Event]:
        nonlocal under_way, most
        for event in events(30):
            with lock:
                under_way += 1
                most = max(most, under_way)
            yield event

    def look(streamed: Streamed) -> None:
        nonlocal under_way
        time.sleep(0.002)
        with lock:
            under_way -= 1

    assert len(streaming(server, source(), window=window, look=look)) == 30
    assert most <= window + 1  # the caller has counted it off, but not come back for the next
    assert most >= min(window, 3)  # the bound is met by sending ahead, not by not doing so


def test_a_refused_event_is_an_error_of_its_own(
    streaming: Streaming, server: str, events: Events
) -> None:
    batch = events(5)
    batch.npho[2, 101] = np.nan
    batch.npho_valid[2, 101] = True
    found = {streamed.place: streamed for streamed in streaming(server, batch)}
    assert [found[place].error is None for place in range(5)] == [True, True, False, True, True]
    with pytest.raises(errors.InvalidRequest, match=r"event\.npho\[101\]") as caught:
        found[2].result()
    assert caught.value.violations[0].field == "event.npho[101]"
    assert caught.value.reason == "INVALID_EVENT"


def test_deadlines_are_those_of_events(streaming: Streaming, server: str, events: Events) -> None:
    found = streaming(server, events(3), timeout=1e-9)
    assert [type(streamed.error) for streamed in found] == [errors.DeadlineExceeded] * 3
    assert all(streamed.error is None for streamed in streaming(server, events(3), timeout=60))


def test_what_the_source_raises_comes_after_the_answers(
    streaming: Streaming, server: str, events: Events
) -> None:
    def source() -> Iterator[Event]:
        yield from events(4)
        raise LookupError("no more tape")

    seen: list[int] = []
    with pytest.raises(LookupError, match="no more tape"):
        streaming(server, source(), look=lambda streamed: seen.append(streamed.place))
    assert sorted(seen) == [0, 1, 2, 3]


def test_a_server_that_is_not_there(streaming: Streaming, events: Events) -> None:
    with pytest.raises(errors.Unavailable) as caught:
        streaming("127.0.0.1:1", events(3))
    assert caught.value.unanswered == ()


@pytest.mark.parametrize("bad", [{"window": 0}, {"timeout": 0.0}, {"timeout": -1.0}])
def test_impossible_options(
    streaming: Streaming, server: str, events: Events, bad: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        streaming(server, events(1), **bad)


class Scripted(pb_grpc.ReconstructionServicer):
    """Streams that end as a test says."""

    def __init__(self, script: Callable[[Any, Any], Any]) -> None:
        self.script = script
        self.opening: pb.StreamOpen | None = None
        self.acknowledged: list[int] = []

    def events(self, requests: Iterable[pb.StreamRequest]) -> Iterator[pb.StreamEvent]:
        for request in requests:
            if request.WhichOneof("content") == "open":
                self.opening = request.open
            elif request.WhichOneof("content") == "event":
                yield request.event
            else:
                self.acknowledged += request.acknowledgement.id

    def ReconstructStream(self, requests: Any, context: Any) -> Any:  # noqa: N802
        yield pb.StreamResponse(opened=pb.StreamOpened(window=4))
        yield from self.script(self.events(requests), context)


def answer(sent: pb.StreamEvent, **changed: Any) -> pb.StreamResponse:
    fields = {"id": sent.id, "run": sent.event.run, "event": sent.event.event} | changed
    return pb.StreamResponse(answer=pb.StreamAnswer(response=answer_to(sent.event), **fields))


@contextmanager
def scripted(script: Callable[[Any, Any], Any]) -> Iterator[tuple[str, Scripted]]:
    servicer = Scripted(script)
    with serving(servicer) as address:  # type: ignore[arg-type]
        yield address, servicer


def test_all_is_acknowledged_and_the_servers_window_counts(
    streaming: Streaming, events: Events
) -> None:
    """The server answers only once as many as it allows are there, and one more must not come."""
    most = 0

    def script(received: Any, context: Any) -> Any:
        nonlocal most
        waiting = []
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(next, received, None)
            while True:
                try:
                    event = ahead.result(0.2)
                except TimeoutError:
                    yield from [answer(waiting.pop(0))]
                    continue
                if event is None:
                    return
                waiting.append(event)
                most = max(most, len(waiting))
                ahead = pool.submit(next, received, None)

    with scripted(script) as (address, servicer):
        found = streaming(address, events(9), window=50, lane=Priority.OFFLINE)
    assert sorted(streamed.place for streamed in found) == list(range(9))
    assert most == 4
    assert sorted(servicer.acknowledged) == list(range(9))
    assert servicer.opening is not None
    assert (servicer.opening.lane, servicer.opening.window) == (pb.LANE_OFFLINE, 50)


def test_an_error_names_what_was_not_answered(streaming: Streaming, events: Events) -> None:
    def script(received: Any, context: Any) -> Any:
        first, second, third = (next(received) for _ in range(3))
        yield answer(second)
        assert (first.id, third.id) == (0, 2)
        context.abort_with_status(rich(Code.UNAVAILABLE, "The server is stopping."))

    seen: list[int] = []
    with (
        scripted(script) as (address, _),
        pytest.raises(
            errors.Unavailable, match=r"sent and not answered, the first is event 0"
        ) as e,
    ):
        streaming(address, events(3), look=lambda streamed: seen.append(streamed.place))
    assert seen == [1]
    assert [(one.place, one.event) for one in e.value.unanswered] == [(0, 0), (2, 2)]
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 77},
        {"event": 77},
        {"run": 77},
    ],
)
def test_an_answer_to_another_event_is_noticed(
    streaming: Streaming, events: Events, wrong: dict[str, int]
) -> None:
    def script(received: Any, context: Any) -> Any:
        yield answer(next(received), **wrong)

    with (
        scripted(script) as (address, _),
        pytest.raises(errors.ProtocolDefect, match="not asked for") as caught,
    ):
        streaming(address, events(1))
    assert caught.value.server == address


def test_an_end_before_its_time_is_noticed(streaming: Streaming, events: Events) -> None:
    def script(received: Any, context: Any) -> Any:
        next(received)
        return
        yield

    with (
        scripted(script) as (address, _),
        pytest.raises(errors.ProtocolDefect, match="before its time") as caught,
    ):
        streaming(address, events(1))
    assert [one.place for one in caught.value.unanswered] == [0]


def test_a_caller_that_stops_ends_the_call(server: str, events: Events) -> None:
    before = threading.active_count()
    with Client(server) as client:
        answers = client.stream(events(50), window=4)
        next(answers)
        answers.close()  # type: ignore[attr-defined]
        for _ in zip(range(3), client.stream(events(50), window=4), strict=False):
            pass
        end = time.monotonic() + 60
        while threading.active_count() > before + 2:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_an_asynchronous_source(server: str, events: Events) -> None:
    async def source() -> Any:
        for event in events(6):
            await asyncio.sleep(0)
            yield event

    async def ask() -> list[int]:
        async with AsyncClient(server) as client:
            return [streamed.place async for streamed in client.stream(source())]

    assert sorted(asyncio.run(ask())) == list(range(6))
