"""Requests that the server refuses, each in one exact way, and goes on serving."""

from __future__ import annotations

from dataclasses import replace

import grpc
import numpy as np
import pytest

from support_server import DEAD, Code, Events, Running, refusal, request, still_serves, violated
from xec.detector.channels import N_CHANNELS
from xec.event import Event
from xec.wire import codec
from xec.wire.limits import MAX_REQUEST_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb


def first_live(event: Event, mask: str) -> int:
    live = getattr(event, mask).copy()
    live[list(DEAD.channels)] = False
    return int(np.flatnonzero(live)[0])


@pytest.mark.parametrize("name", ["npho", "time"])
@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e10, "marker"), (-1e10, "marker")],
)
async def test_no_number_in_a_live_sensor(
    name: str, value: float, words: str, service: Running, events: Events
) -> None:
    event = next(iter(events(1)))
    channel = first_live(event, f"{name}_valid")
    getattr(event, name)[channel] = value
    _, found = await refusal(
        service.stub.Reconstruct(request(event)), Code.INVALID_ARGUMENT, "INVALID_EVENT"
    )
    assert violated(found) == [f"event.{name}[{channel}]"]
    description = found["BadRequest"].field_violations[0].description
    assert words in description
    assert "clear its validity bit" in description
    assert service.engine.rows == 0
    await still_serves(service, events)


async def test_no_number_in_a_dead_sensor_is_ignored(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    clean = await service.stub.Reconstruct(request(event))
    event.npho[~event.npho_valid] = np.nan
    event.time[~event.time_valid] = np.inf
    event.npho[DEAD.channels[0]] = 1e10  # dead by the list only
    event.npho_valid[DEAD.channels[0]] = True
    dirty = await service.stub.Reconstruct(request(event))
    assert dirty.recovered == clean.recovered
    assert dirty.energy == clean.energy


async def test_many_violations_are_counted_and_the_first_listed(
    service: Running, events: Events
) -> None:
    batch = events(40)
    batch.npho[3] = np.nan
    batch.time[5, :] = np.inf
    expected = sum(
        int((mask & ~DEAD.mask).sum()) for mask in (batch.npho_valid[3], batch.time_valid[5])
    )
    messages = [codec.event_to_proto(event) for event in batch]
    messages[0].npho = b"short"
    text, found = await refusal(
        service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages)),
        Code.INVALID_ARGUMENT,
        "INVALID_EVENT",
    )
    assert f"16 of {expected + 1} violations" in text
    fields = violated(found)
    assert len(fields) == 16
    assert fields[0] == "events[0].npho"
    assert all(field.startswith("events[3].npho[") for field in fields[1:])
    assert service.engine.rows == 0


@pytest.mark.parametrize("field", ["npho", "time", "npho_valid", "time_valid"])
async def test_wrong_lengths(field: str, service: Running, events: Events) -> None:
    message = request(next(iter(events(1))))
    setattr(message.event, field, getattr(message.event, field)[:-4])
    _, found = await refusal(
        service.stub.Reconstruct(message), Code.INVALID_ARGUMENT, "INVALID_EVENT"
    )
    assert violated(found) == [f"event.{field}"]
    await still_serves(service, events)


async def test_a_missing_event(service: Running) -> None:
    call = service.stub.Reconstruct(pb.ReconstructRequest())
    _, found = await refusal(call, Code.INVALID_ARGUMENT, "INVALID_EVENT")
    assert violated(found) == ["event.npho", "event.time"]


async def test_an_event_without_valid_sensors(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    blind = replace(event, npho_valid=np.zeros(N_CHANNELS, dtype=bool))
    _, found = await refusal(
        service.stub.Reconstruct(request(blind)), Code.INVALID_ARGUMENT, "INVALID_EVENT"
    )
    assert violated(found) == ["event.npho_valid"]
    only_dead = replace(event, npho_valid=DEAD.mask)
    await refusal(
        service.stub.Reconstruct(request(only_dead)), Code.INVALID_ARGUMENT, "INVALID_EVENT"
    )


async def test_too_many_events(service: Running, events: Events) -> None:
    message = codec.event_to_proto(next(iter(events(1))))
    call = service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=[message] * 257))
    text, _ = await refusal(call, Code.INVALID_ARGUMENT, "TOO_MANY_EVENTS")
    assert "at most 256" in text


async def test_bytes_that_are_no_request(service: Running, events: Events) -> None:
    call = service.channel.unary_unary("/xec.v1.Reconstruction/Reconstruct")
    await refusal(call(b"\xff\xff\xff"), Code.INVALID_ARGUMENT, "UNPARSEABLE_REQUEST")
    await still_serves(service, events)


async def test_a_message_of_20_mb_is_refused(service: Running, events: Events) -> None:
    call = service.channel.unary_unary("/xec.v1.Reconstruction/Reconstruct")
    content = bytes(20_000_000)
    assert len(content) > MAX_REQUEST_BYTES
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(content)
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    await still_serves(service, events)


async def test_an_unknown_method_is_unimplemented(service: Running) -> None:
    call = service.channel.unary_unary("/xec.v1.Reconstruction/Destroy")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() == Code.UNIMPLEMENTED
