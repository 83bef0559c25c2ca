"""What a message may look like before it is parsed: a walk over its outermost fields only.

16 MiB hold eight million empty events of two bytes, which the parser turns into as many objects:
the size in bytes bounds what a message costs only together with the number of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xec.wire.limits import MAX_EVENTS_PER_BATCH, MAX_OTHER_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.refusal import Reason, Refusal

_LONGEST_VARINT: Final = 10  # bytes
_LENGTH: Final = 2
_FIXED: Final = {1: 8, 5: 4}
"""Bytes of a field by its wire type; of the others, a varint or its length follows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one message of a method may hold.

    Args:
        field: number of the field that holds events; 0: there is none.
        events: that may be in it.
    """

    field: int = 0
    events: int = 0


_SERVICE: Final = f"/{pb.DESCRIPTOR.services_by_name['Reconstruction'].full_name}/"
_SHAPES: Final = {
    f"{_SERVICE}Reconstruct": Shape(pb.ReconstructRequest.EVENT_FIELD_NUMBER, 1),
    f"{_SERVICE}ReconstructBatch": Shape(
        pb.ReconstructBatchRequest.EVENTS_FIELD_NUMBER, MAX_EVENTS_PER_BATCH
    ),
    f"{_SERVICE}ReconstructStream": Shape(pb.StreamRequest.EVENT_FIELD_NUMBER, 1),
}


def shape_of(method: str) -> Shape:
    """What a message of the method may hold; of a method without events, nothing but the rest."""
    return _SHAPES.get(method, Shape())


class _BrokenMessageError(Exception):
    """The parser will say so, better."""


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = 0
    for index, byte in enumerate(content[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise _BrokenMessageError


def _end_of_field(content: bytes, at: int, kind: int) -> int:
    if kind == 0:
        return _varint(content, at)[1]
    if kind == _LENGTH:
        length, at = _varint(content, at)
        return at + length
    if kind in _FIXED:
        return at + _FIXED[kind]
    raise _BrokenMessageError  # groups, which proto3 has not, and kinds that do not exist


def check_shape(content: bytes, shape: Shape) -> None:
    """Refuse a message of too many parts before the parser makes objects of them.

    What is broken passes: the parser refuses it. The walk ends at the first part too many, so that
    its cost is bounded by the limits and not by the message.

    Args:
        content: a message as it came.
        shape: what it may hold.

    Raises:
        Refusal: more events than it may hold, or more than 64 KiB beside them.
    """
    at, events, others = 0, 0, 0
    while at < len(content):
        begin = at
        try:
            tag, at = _varint(content, at)
            at = _end_of_field(content, at, tag & 7)
        except _BrokenMessageError:
            return
        if tag == shape.field << 3 | _LENGTH:  # of another kind it is an unknown field
            events += 1
        else:
            others += min(at, len(content)) - begin
        if events > shape.events:
            raise Refusal(
                Reason.TOO_MANY_EVENTS,
                f"A request holds at most {shape.events} events: split it."
                if shape.events > 1
                else "A message of this method holds one event: send one message for each.",
            )
        if others > MAX_OTHER_BYTES:
            raise Refusal(
                Reason.TOO_MANY_FIELDS,
                f"What a request holds beside events takes at most {MAX_OTHER_BYTES} bytes.",
            )
