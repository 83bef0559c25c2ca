"""Requests: what they say of dead sensors, and how many events they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec.conditions.dead_list import DeadList
from xec.detector.channels import N_CHANNELS
from xec.errors import ConditionsError, UsageError
from xec.event import Event, EventBatch
from xec.wire.codec import event_from_proto
from xec.wire.limits import MAX_EVENTS_PER_BATCH, MAX_REQUEST_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client.errors import MessageTooLarge
from xec_client.requests import batch_requests, dead_list_message, event_request
from xec_client.settings import Settings

SETTINGS = Settings("daq7:50051")
MASK = np.isin(np.arange(N_CHANNELS), [3, 17, 4759])


def blank(number: int) -> Event:
    zeros, valid = np.zeros(N_CHANNELS, np.float32), np.ones(N_CHANNELS, np.bool_)
    return Event(7, number, zeros, zeros, valid, valid)


@pytest.mark.parametrize(
    "dead",
    [
        DeadList.of([3, 17, 4759]),
        MASK,
        [17, 3, 4759, 3],
        np.array([4759, 3, 17]),
        {3, 17, 4759},
        iter((3, 17, 4759)),
    ],
    ids=["list", "mask", "ids", "array", "set", "iterator"],
)
def test_ways_to_name_dead_sensors(dead: object) -> None:
    message = dead_list_message(dead)
    assert message.WhichOneof("source") == "channels"
    assert list(message.channels.id) == [3, 17, 4759]


def test_a_list_of_the_server() -> None:
    assert dead_list_message(None) is None
    assert dead_list_message("2023-11").list_id == "2023-11"


def test_nothing_dead_is_said_not_left_out() -> None:
    assert dead_list_message(()).WhichOneof("source") == "channels"
    assert dead_list_message(DeadList.of(())).WhichOneof("source") == "channels"


def test_unknown_sensors_are_refused_here() -> None:
    with pytest.raises(ConditionsError, match="4760"):
        dead_list_message([4760])
    with pytest.raises(UsageError, match="shape"):
        dead_list_message(np.zeros(10, np.bool_))


def test_an_event_arrives_as_it_was(events: Callable[..., EventBatch]) -> None:
    (event,) = events(1)
    request = pb.ReconstructRequest.FromString(event_request(event, [5], SETTINGS))
    arrived = event_from_proto(request.event)
    assert (arrived.run, arrived.event) == (event.run, event.event)
    for name in ("npho", "time", "npho_valid", "time_valid"):
        np.testing.assert_array_equal(getattr(arrived, name), getattr(event, name))
    assert list(request.dead_list.channels.id) == [5]


def test_batches_end_at_the_servers_count() -> None:
    parts = list(batch_requests(map(blank, range(600)), None, SETTINGS))
    assert [len(part.events) for part in parts] == [256, 256, 88]
    assert [e.event for part in parts for e in part.events] == list(range(600))
    for part in parts:
        request = pb.ReconstructBatchRequest.FromString(part.request)
        assert [e.event for e in request.events] == [e.event for e in part.events]
        assert len(part.request) <= MAX_REQUEST_BYTES
    assert MAX_EVENTS_PER_BATCH == 256


@given(limit=st.integers(42_000, 400_000), count=st.integers(0, 25), dead=st.integers(0, 300))
def test_no_message_exceeds_the_limit_and_none_is_needlessly_small(
    limit: int, count: int, dead: int
) -> None:
    settings = replace(SETTINGS, max_request_bytes=limit)
    everything = [blank(number) for number in range(count)]
    parts = list(batch_requests(everything, range(dead), settings))
    assert [e.event for part in parts for e in part.events] == list(range(count))
    assert all(len(part.request) <= limit for part in parts)
    # One more event (39.3 kB) would not have fitted, were it not the last part.
    assert all(len(part.request) + 39_400 > limit for part in parts[:-1])


def test_the_dead_list_takes_room_in_every_part() -> None:
    # With 4000 dead sensors, two events exceed a limit that they would keep without them.
    settings = replace(SETTINGS, max_request_bytes=83_000)
    everything = [blank(number) for number in range(6)]
    listed = list(batch_requests(everything, range(4000), settings))
    assert [len(part.events) for part in listed] == [1] * 6
    assert [len(part.events) for part in batch_requests(everything, (), settings)] == [2] * 3


def test_what_is_too_large_is_refused_by_itself() -> None:
    settings = replace(SETTINGS, max_request_bytes=39_000)
    with pytest.raises(MessageTooLarge, match=r"Event 4 of run 7 takes \d+ bytes .* daq7:50051"):
        event_request(blank(4), None, settings)
    with pytest.raises(MessageTooLarge, match="Event 5 of run 7"):
        list(batch_requests([blank(5)], None, settings))
    # The control: a little more room, and it goes.
    assert event_request(blank(4), None, replace(settings, max_request_bytes=40_000))


def test_no_events_no_request() -> None:
    assert list(batch_requests([], None, SETTINGS)) == []
