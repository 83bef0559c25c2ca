"""`ReconstructStream`: each event once, by its id, whatever the order; errors in-band."""

from __future__ import annotations

import asyncio
import random
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from support_server import NOTHING_DEAD, Code, Events, Running, refusal, running
from support_stream import another_client, held_back, ids, opened, settings, until
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.events.event_stream import EventStream, StreamCounts
from xec_server.events.streams import StreamPolicy


async def test_each_event_is_answered_once_by_its_id(
    service: Running, events: Events, answers: object
) -> None:
    batch = events(40)
    numbers = random.Random(7).sample(range(10**6), 40)
    stream = await opened(service.stub, dead_list=NOTHING_DEAD)
    await stream.send(*zip(numbers, batch, strict=True))
    found = await stream.end()
    assert sorted(ids(found)) == sorted(numbers)
    expected = answers(batch)["energy"]  # type: ignore[operator]
    for answer in found:
        row = numbers.index(answer.id)
        assert (answer.run, answer.event) == (batch.run[row], batch.event[row])
        assert (answer.response.run, answer.response.event) == (answer.run, answer.event)
        np.testing.assert_allclose(answer.response.energy.mean, expected[row], rtol=1e-4)
        assert answer.response.timings.batch_size >= 1
    counts = service.server.streams.counts
    assert (counts.events, counts.answered, counts.unanswered) == (40, 40, 0)
    assert service.server.streams.held == 0


class ShuffledQueue:
    """Answers in an order of its own; `swapped` mixes two answers up, as a control."""

    def __init__(self, order: list[int], swapped: bool = False) -> None:
        self.order, self.swapped = order, swapped
        self.waiting: dict[int, asyncio.Future[object]] = {}

    def check(self, *where: object) -> None:
        """There is room."""

    async def submit(self, items: list[object], *where: object) -> list[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.waiting[len(self.waiting)] = future
        if len(self.waiting) == len(self.order):
            asyncio.get_running_loop().call_soon(self.settle)
        return [await future]

    def settle(self) -> None:
        for place in self.order:
            told = place ^ 1 if self.swapped and len(self.order) > 1 and place < 2 else place
            response = pb.ReconstructResponse(event=told)
            answered = type("Answered", (), {})()
            answered.value, answered.batch_size = response, 1
            answered.queue_seconds = answered.compute_seconds = 0.0
            self.waiting[place].set_result(answered)


class AnyEvents:
    models = SimpleNamespace(leased=lambda version: nullcontext())

    async def works(self, served: object, messages: object, *rest: object) -> list[object]:
        return list(messages)  # type: ignore[call-overload, no-any-return]


async def shuffled(order: list[int], swapped: bool) -> list[pb.StreamAnswer]:
    sent: list[pb.StreamAnswer] = []

    async def requests():  # type: ignore[no-untyped-def]
        for place in range(len(order)):
            event = pb.StreamEvent(id=1000 + place, event=pb.Event(event=place))
            yield pb.StreamRequest(event=event)

    async def send(message: pb.StreamResponse) -> None:
        sent.append(message.answer)

    stream = EventStream(
        pb.StreamOpen(),
        len(order),
        ("", ""),
        AnyEvents(),
        ShuffledQueue(order, swapped),  # type: ignore[arg-type]
        StreamCounts(),
    )
    await stream.run(requests(), send, asyncio.Event(), 600)
    return sent


def agree(sent: list[pb.StreamAnswer]) -> bool:
    return all(one.id == 1000 + one.event == 1000 + one.response.event for one in sent)


@given(st.integers(1, 30).flatmap(lambda size: st.permutations(range(size))))
@hypothesis_settings(max_examples=60)
def test_answers_come_in_the_order_of_completion_and_keep_their_ids(order: list[int]) -> None:
    sent = asyncio.run(shuffled(order, swapped=False))
    assert ids(sent) == [1000 + place for place in order]
    assert agree(sent)


def test_the_control_a_queue_that_mixes_answers_up_is_noticed() -> None:
    assert not agree(asyncio.run(shuffled([2, 0, 1], swapped=True)))


async def test_what_is_wrong_with_an_event_is_told_in_band(
    service: Running, events: Events
) -> None:
    good = list(events(3))
    short = codec.event_to_proto(good[1])
    short.npho = b"\0" * 8
    stream = await opened(service.stub)
    await stream.send((0, good[0]))
    await stream.call.write(pb.StreamRequest(event=pb.StreamEvent(id=1, event=short)))
    await stream.send((2, good[2]), timeout=1e-9)
    found = {answer.id: answer for answer in await stream.end()}
    assert found[0].WhichOneof("outcome") == "response"
    error = found[1].error
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT.value[0], "INVALID_EVENT")
    assert [violation.field for violation in error.violations] == ["event.npho"]
    assert not error.HasField("retry_delay")
    assert found[2].error.reason == "DEADLINE_PASSED"
    assert found[2].error.code == Code.DEADLINE_EXCEEDED.value[0]


async def test_a_full_queue_is_told_in_band_with_the_time_to_come_back(
    stub_repository: Path, events: Events
) -> None:
    async with held_back(stub_repository, StreamPolicy(window=256), queue=256) as (service, _):
        streams = [await opened(service.stub) for _ in range(2)]
        for stream in streams:
            await stream.send(*enumerate(events(200)))
        await until(lambda: service.server.streams.counts.events == 400)
        refused = await streams[1].answer()
        assert refused.error.code == Code.RESOURCE_EXHAUSTED.value[0]
        assert refused.error.reason == "QUEUE_FULL"
        assert 0.05 <= refused.error.retry_delay <= 5
        service.engine.passes.release(10**6)
        answered = [await stream.end() for stream in streams]
        outcomes = [a.WhichOneof("outcome") for part in answered for a in part]
        # One client gets half of the queue, the one with the engine included; others are refused.
        assert outcomes.count("response") == 128
        assert len(outcomes) == 399


@pytest.mark.parametrize(
    ("first", "reason", "code"),
    [
        (pb.StreamRequest(), "STREAM_NOT_OPENED", Code.INVALID_ARGUMENT),
        (
            pb.StreamRequest(event=pb.StreamEvent(id=1)),
            "STREAM_NOT_OPENED",
            Code.INVALID_ARGUMENT,
        ),
        (
            pb.StreamRequest(open=pb.StreamOpen(model_version="no such")),
            "UNKNOWN_MODEL_VERSION",
            Code.NOT_FOUND,
        ),
        (None, "STREAM_NOT_OPENED", Code.INVALID_ARGUMENT),
    ],
)
async def test_a_stream_that_does_not_open(
    service: Running, first: pb.StreamRequest | None, reason: str, code: grpc.StatusCode
) -> None:
    call = service.stub.ReconstructStream()
    if first is None:
        await call.done_writing()
    else:
        await call.write(first)
    await refusal(call.read(), code, reason)
    assert service.server.streams.open == 0


async def test_a_stream_in_which_nothing_comes_is_closed(stub_repository: Path) -> None:
    policy = StreamPolicy(opening=0.05)
    async with running(stub_repository, settings=settings(policy)) as service:
        call = service.stub.ReconstructStream()
        await refusal(call.read(), Code.INVALID_ARGUMENT, "STREAM_NOT_OPENED")


async def test_bytes_that_are_no_message(service: Running) -> None:
    raw = service.channel.stream_stream("/xec.v1.Reconstruction/ReconstructStream")
    call = raw()
    await call.write(b"\xff\xff\xff")
    await refusal(call.read(), Code.INVALID_ARGUMENT, "UNPARSEABLE_REQUEST")


async def test_the_rules_of_a_stream(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    for wrong, reason in (
        (pb.StreamRequest(open=pb.StreamOpen()), "STREAM_NOT_OPENED"),
        (
            pb.StreamRequest(acknowledgement=pb.StreamAcknowledgement(id=[9])),
            "UNKNOWN_ACKNOWLEDGEMENT",
        ),
    ):
        stream = await opened(service.stub, acknowledges=True)
        await stream.call.write(wrong)
        await refusal(stream.call.read(), Code.INVALID_ARGUMENT, reason)
    stream = await opened(service.stub, acknowledges=True)
    await stream.send((5, event))
    assert (await stream.answer()).id == 5
    await stream.send((5, event))
    await refusal(stream.call.read(), Code.INVALID_ARGUMENT, "EVENT_ID_IN_USE")
    stream = await opened(service.stub, acknowledges=True)
    await stream.send((5, event))
    assert (await stream.answer()).id == 5
    await stream.acknowledge(5)
    await stream.send((5, event))  # free again
    assert ids(await stream.end()) == [5]


async def test_a_slow_or_broken_one_does_not_concern_another_client(
    service: Running, events: Events
) -> None:
    async with another_client(service) as other:
        stream = await opened(other)
        broken = await opened(service.stub)
        await broken.call.write(pb.StreamRequest())
        await refusal(broken.call.read(), Code.INVALID_ARGUMENT, "STREAM_NOT_OPENED")
        await stream.send(*enumerate(events(5)))
        assert sorted(ids(await stream.end())) == list(range(5))
