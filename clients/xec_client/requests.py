"""Requests as the bytes that are sent, never larger than the server takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xec.conditions.dead_list import DeadList
from xec.detector.channels import N_CHANNELS
from xec.errors import UsageError
from xec.event import BoolArray, Event
from xec.wire.codec import dead_list_of_channels, event_to_proto
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client.errors import MessageTooLarge
from xec_client.settings import Settings

Dead = None | str | DeadList | BoolArray | Iterable[int]
"""The sensors that are dead: None lets the server resolve them by its own list, a text names one
of the server's lists, the rest are the list itself: `DeadList`, mask (4760,) or channel ids."""

# A repeated message costs its tag (1 byte) and its length (at most 5) beside itself.
_FRAME_BYTES = 6


def _mask_of(dead: BoolArray) -> BoolArray:
    if dead.shape != (N_CHANNELS,):
        raise UsageError(f"A mask of dead sensors has shape ({N_CHANNELS},), not {dead.shape}.")
    return dead


def dead_list_message(dead: Dead) -> pb.DeadList | None:
    """The dead list of a request; None where the server is to resolve it.

    Raises:
        UsageError: a mask of another length.
        ConditionsError: a channel id that no sensor has.
    """
    if dead is None:
        return None
    if isinstance(dead, str):
        return pb.DeadList(list_id=dead)
    if isinstance(dead, np.ndarray) and dead.dtype == np.bool_:
        return dead_list_of_channels(_mask_of(dead))
    listed = dead if isinstance(dead, DeadList) else DeadList.of(dead)
    return dead_list_of_channels(listed.mask)


def _refuse_too_large(size: int, what: str, settings: Settings) -> None:
    if size > settings.max_request_bytes:
        raise MessageTooLarge(
            f"{what} takes {size} bytes and the server at {settings.server} receives "
            f"{settings.max_request_bytes}; raise the limit of both.",
            server=settings.server,
        )


def event_request(event: Event, dead: Dead, settings: Settings) -> bytes:
    """The request for one event.

    Raises:
        MessageTooLarge: it is above the server's limit.
    """
    request = pb.ReconstructRequest(event=event_to_proto(event), dead_list=dead_list_message(dead))
    content: bytes = request.SerializeToString()
    _refuse_too_large(len(content), f"Event {event.event} of run {event.run}", settings)
    return content


@dataclass(frozen=True, slots=True)
class Part:
    """Some consecutive events and the request for them."""

    events: Sequence[Event]
    request: bytes


def _part(events: list[Event], messages: list[pb.Event], dead: pb.DeadList | None) -> Part:
    request = pb.ReconstructBatchRequest(events=messages, dead_list=dead)
    return Part(events, request.SerializeToString())


def batch_requests(events: Iterable[Event], dead: Dead, settings: Settings) -> Iterator[Part]:
    """The requests for many events, as few as the server's limits allow, in order.

    Raises:
        MessageTooLarge: a single event is above the server's limit.
    """
    dead_message = dead_list_message(dead)
    overhead = _FRAME_BYTES + (0 if dead_message is None else dead_message.ByteSize())
    chosen: list[Event] = []
    messages: list[pb.Event] = []
    size = overhead
    for event in events:
        message = event_to_proto(event)
        grown = message.ByteSize() + _FRAME_BYTES
        full = size + grown > settings.max_request_bytes or len(chosen) == settings.max_events
        if chosen and full:
            yield _part(chosen, messages, dead_message)
            chosen, messages, size = [], [], overhead
        _refuse_too_large(overhead + grown, f"Event {event.event} of run {event.run}", settings)
        chosen.append(event)
        messages.append(message)
        size += grown
    if chosen:
        yield _part(chosen, messages, dead_message)
