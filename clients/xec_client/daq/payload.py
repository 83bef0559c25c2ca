"""What the spool keeps of an event: everything that its reconstruction needs, and nothing else.

One byte for the kind, then a `xec.v1.ReconstructRequest` (39 kB) with the dead list where the
source tells one; or, for an event that could not be read, the reason as UTF-8. Such an event
travels the same way, so that it ends in the spool's record of rejections like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from xec.conditions.dead_list import DeadList
from xec.errors import InvalidEvent
from xec.event import Event
from xec.wire.codec import (
    dead_list_of_channels,
    dead_mask_of_channels,
    event_from_proto,
    event_to_proto,
)
from xec.wire.v1 import reconstruction_pb2 as pb

_MEASURED: Final = b"M"
_SYNTHETIC: Final = b"S"
_UNREADABLE: Final = b"U"
_KINDS: Final = (_MEASURED, _SYNTHETIC)


@dataclass(frozen=True, slots=True)
class Parcel:
    """An event as it waits for its answer.

    Args:
        event: counts and times.
        dead: the dead sensors that the source told, or None; they are invalid in `event` as well.
        synthetic: whether the event was simulated.
    """

    event: Event
    dead: DeadList | None
    synthetic: bool


class Unreadable(InvalidEvent):
    """A payload without an event; its text is the reason."""


def pack(parcel: Parcel) -> bytes:
    """The bytes of an event."""
    dead = None if parcel.dead is None else dead_list_of_channels(parcel.dead.mask)
    request = pb.ReconstructRequest(event=event_to_proto(parcel.event), dead_list=dead)
    content: bytes = request.SerializeToString()
    return (_SYNTHETIC if parcel.synthetic else _MEASURED) + content


def pack_unreadable(reason: str) -> bytes:
    """The bytes of an event that could not be read."""
    return _UNREADABLE + reason.encode()


def unpack(payload: bytes) -> Parcel:
    """The event in a payload.

    Raises:
        Unreadable: there is none, for the reason that its text gives.
    """
    kind, content = payload[:1], payload[1:]
    if kind == _UNREADABLE:
        raise Unreadable(content.decode(errors="replace"))
    if kind not in _KINDS:
        raise Unreadable("The payload is of another version of this program.")
    try:
        request = pb.ReconstructRequest.FromString(content)
        event = event_from_proto(request.event)
        dead = _told(request)
    except (DecodeError, InvalidEvent) as error:
        raise Unreadable(f"The payload is no event: {error}") from error
    return Parcel(event, dead, kind == _SYNTHETIC)


def _told(request: pb.ReconstructRequest) -> DeadList | None:
    if request.dead_list.WhichOneof("source") != "channels":
        return None
    return DeadList.from_mask(dead_mask_of_channels(request.dead_list.channels.id))
