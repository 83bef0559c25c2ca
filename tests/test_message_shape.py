"""What is refused before it is parsed: by the walk over a message's outermost fields."""

from __future__ import annotations

import time

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from support_server import Code, Events, Running, refusal, request, still_serves
from xec.wire import codec
from xec.wire.limits import MAX_EVENTS_PER_BATCH, MAX_OTHER_BYTES, MAX_REQUEST_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls import guard
from xec_server.calls.message_shape import Shape, check_shape, shape_of
from xec_server.calls.refusal import Reason, Refusal

BATCH = "/xec.v1.Reconstruction/ReconstructBatch"
SHAPE = shape_of(BATCH)
EMPTY_EVENT = b"\x0a\x00"


def verdict(content: bytes, shape: Shape = SHAPE) -> Reason | None:
    try:
        check_shape(content, shape)
    except Refusal as refused:
        return refused.reason
    return None


def test_as_many_events_as_a_batch_holds_and_one_more() -> None:
    assert verdict(EMPTY_EVENT * MAX_EVENTS_PER_BATCH) is None
    assert verdict(EMPTY_EVENT * (MAX_EVENTS_PER_BATCH + 1)) is Reason.TOO_MANY_EVENTS


def test_one_event_where_there_is_one() -> None:
    shape = shape_of("/xec.v1.Reconstruction/Reconstruct")
    assert verdict(EMPTY_EVENT, shape) is None
    assert verdict(EMPTY_EVENT * 2, shape) is Reason.TOO_MANY_EVENTS


def test_as_much_beside_events_as_there_may_be_and_one_byte_more() -> None:
    def version(length: int) -> bytes:  # a tag, three bytes of length, the text
        return pb.ReconstructBatchRequest(model_version="v" * length).SerializeToString()

    assert len(version(MAX_OTHER_BYTES - 4)) == MAX_OTHER_BYTES
    assert verdict(version(MAX_OTHER_BYTES - 4)) is None
    assert verdict(version(MAX_OTHER_BYTES - 3)) is Reason.TOO_MANY_FIELDS


LONG_LIST = pb.DeadList(channels=pb.DeadList.Channels(id=range(40_000)))


@pytest.mark.parametrize(
    "content",
    [
        pb.ReconstructBatchRequest(dead_list=LONG_LIST).SerializeToString(),
        b"\x78\x01" * MAX_OTHER_BYTES,  # field 15, unknown
        b"\x22\x00" * MAX_OTHER_BYTES,  # the lane, as a text: unknown as well
    ],
)
def test_what_is_many_in_other_fields(content: bytes) -> None:
    assert verdict(content) is Reason.TOO_MANY_FIELDS


def test_every_dead_list_there_can_be_passes() -> None:
    dead = pb.DeadList(channels=pb.DeadList.Channels(id=range(4760)))
    assert verdict(pb.ReconstructBatchRequest(dead_list=dead).SerializeToString()) is None


fields = st.builds(
    lambda number, kind, content: (
        (number << 3 | kind).to_bytes(1, "little") + content[: {0: 1, 1: 8, 5: 4}.get(kind, 0)]
        if kind != 2
        else (number << 3 | 2).to_bytes(1, "little") + bytes((len(content),)) + content
    ),
    st.integers(1, 15),
    st.sampled_from([0, 1, 2, 5]),
    st.binary(min_size=8, max_size=60).map(lambda b: bytes((b[0] & 0x7F,)) + b[1:]),
)


@given(st.lists(fields, max_size=30), st.integers(0, 5))
def test_it_counts_what_the_parser_finds(parts: list[bytes], most: int) -> None:
    """Against the parser, for every message that both can read."""
    content = b"".join(parts)
    try:
        events = len(pb.ReconstructBatchRequest.FromString(content).events)
    except DecodeError:
        return
    too_many = verdict(content, Shape(1, most)) is Reason.TOO_MANY_EVENTS
    assert too_many == (events > most)


@given(st.binary(max_size=200))
def test_whatever_comes_is_passed_or_refused(content: bytes) -> None:
    assert verdict(content) in (None, Reason.TOO_MANY_EVENTS, Reason.TOO_MANY_FIELDS)


async def test_eight_million_empty_events_never_reach_the_parser(
    service: Running, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = EMPTY_EVENT * (MAX_REQUEST_BYTES // 2 - 100)
    call = service.channel.unary_unary(BATCH)
    walk, parse = await both_ways(call, content, monkeypatch)
    # Both have the transfer, most of what the walk takes; parsing also takes hundreds of megabytes.
    assert walk < parse / 3
    await still_serves(service, events)


async def both_ways(
    call: object, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, float]:
    """Processor time with the walk, and without."""
    seconds = []
    for _ in range(2):
        begin = time.process_time()
        await refusal(call(content), Code.INVALID_ARGUMENT, "TOO_MANY_EVENTS")  # type: ignore[operator]
        seconds.append(time.process_time() - begin)
        monkeypatch.setattr(guard, "check_shape", lambda content, shape: None)
    return seconds[0], seconds[1]


@pytest.mark.parametrize("count", [MAX_EVENTS_PER_BATCH, MAX_EVENTS_PER_BATCH + 1])
async def test_a_full_batch_is_computed_and_one_more_is_not(
    service: Running, events: Events, count: int
) -> None:
    message = codec.event_to_proto(next(iter(events(1))))
    call = service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=[message] * count))
    if count > MAX_EVENTS_PER_BATCH:
        await refusal(call, Code.INVALID_ARGUMENT, "TOO_MANY_EVENTS")
        assert service.engine.rows == 0
    else:
        assert len((await call).responses) == count == service.engine.rows
    await still_serves(service, events)


async def test_two_events_for_one(service: Running, events: Events) -> None:
    content = request(next(iter(events(1)))).SerializeToString()
    call = service.channel.unary_unary("/xec.v1.Reconstruction/Reconstruct")
    await refusal(call(content * 2), Code.INVALID_ARGUMENT, "TOO_MANY_EVENTS")
    assert service.engine.rows == 0
