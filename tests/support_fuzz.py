"""Broken messages: valid ones, whose fields are altered one by one, and then their bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from conftest import random_events
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb

PREFIX = "/xec.v1.Reconstruction/"
_BAD_FLOATS = [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\xf9\x02\x15\x50"]
_NUMBERS = [0, 1, 4759, 4760, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
_TEXTS = [b"", b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"a" * 300, b"sha256:"]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, kind: int, content: bytes) -> bytes:
    """One field as it stands on the wire; the content of kind 2 without its length."""
    length = varint(len(content)) if kind == 2 else b""
    return varint(number << 3 | kind) + length + content


def _encoded(value: Any, descriptor: Any, spoil: Callable[[bytes, Any], bytes]) -> bytes:
    number = descriptor.number
    match descriptor.type:
        case descriptor.TYPE_MESSAGE:
            return field(number, 2, encode(value, spoil))
        case descriptor.TYPE_BYTES:
            return field(number, 2, value)
        case descriptor.TYPE_STRING:
            return field(number, 2, value.encode())
        case descriptor.TYPE_FLOAT:
            return field(number, 5, struct.pack("<f", value))
        case _:
            return field(number, 0, varint(int(value) & (2**64 - 1)))


def encode(message: Message, spoil: Callable[[bytes, Any], bytes]) -> bytes:
    """The message field by field, each through `spoil`."""
    parts = []
    for descriptor, value in message.ListFields():
        values = value if descriptor.is_repeated else [value]
        parts += [spoil(_encoded(one, descriptor, spoil), descriptor) for one in values]
    return b"".join(parts)


class Fuzz:
    """Methods and broken contents, the same for the same seed.

    Args:
        seed: of all that is random.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._events = [codec.event_to_proto(event) for event in random_events(4)]

    def call(self) -> tuple[str, list[bytes]]:
        """A method and its messages: one, or those of a stream, the first of which is good."""
        roll = self._random.random()
        if roll < 0.5:
            return PREFIX + "Reconstruct", [self._spoilt(self._single())]
        if roll < 0.8:
            return PREFIX + "ReconstructBatch", [self._spoilt(self._batch())]
        if roll < 0.85:
            return PREFIX + "GetModel", [self._spoilt(pb.GetModelRequest())]
        if roll < 0.9:
            return "/grpc.health.v1.Health/Check", [self._spoilt(self._open())]
        first = self._open().SerializeToString()
        if self._random.random() < 0.2:
            first = self._spoilt(self._open())
        count = self._random.randrange(6)
        return PREFIX + "ReconstructStream", [
            first,
            *(self._spoilt(self._stream_request()) for _ in range(count)),
        ]

    def _event(self) -> pb.Event:
        event = pb.Event()
        event.CopyFrom(self._random.choice(self._events))
        event.run = self._random.choice([0, 1000, -1, 2**63 - 1, -(2**63)])
        return event

    def _dead_list(self) -> pb.DeadList:
        return self._random.choice(
            [
                pb.DeadList(),
                pb.DeadList(resolve=pb.DeadList.Resolve()),
                pb.DeadList(list_id="nobody knows it"),
                pb.DeadList(channels=pb.DeadList.Channels(id=[0, 4759, 7, 7])),
                pb.DeadList(channels=pb.DeadList.Channels(id=[4760, 2**32 - 1])),
            ]
        )

    def _single(self) -> pb.ReconstructRequest:
        return pb.ReconstructRequest(
            event=self._event(), dead_list=self._dead_list(), lane=self._random.choice([0, 1, 2, 9])
        )

    def _batch(self) -> pb.ReconstructBatchRequest:
        events = [self._event() for _ in range(self._random.choice([0, 1, 2, 3]))]
        return pb.ReconstructBatchRequest(events=events, dead_list=self._dead_list())

    def _open(self) -> pb.StreamRequest:
        acknowledges = self._random.random() < 0.5
        window = self._random.choice([0, 1, 5, 2**32 - 1])
        if not acknowledges:
            window = max(window, 5)
        opening = pb.StreamOpen(
            dead_list=self._dead_list(), window=window, acknowledges=acknowledges
        )
        return pb.StreamRequest(open=opening)

    def _stream_request(self) -> pb.StreamRequest:
        roll = self._random.random()
        if roll < 0.1:
            return self._open()
        if roll < 0.3:
            ids = [self._random.choice(_NUMBERS) for _ in range(3)]
            return pb.StreamRequest(acknowledgement=pb.StreamAcknowledgement(id=ids))
        timeout = self._random.choice([0, 10, -1.0, float("nan"), float("inf"), 1e-30])
        number = self._random.choice(_NUMBERS)
        return pb.StreamRequest(
            event=pb.StreamEvent(id=number, event=self._event(), timeout=timeout)
        )

    def _spoilt(self, message: Message) -> bytes:
        """One in five as it is; others with a few altered fields, some with altered bytes too."""
        if self._random.random() < 0.2:
            return message.SerializeToString()
        content = encode(message, self._spoil)
        if self._random.random() < 0.3:
            content = self._spoil_bytes(content)
        if self._random.random() < 0.1:
            content += self._deep(self._random.choice([5, 99, 101, 3000]))
        return content

    def _spoil(self, content: bytes, descriptor: Any) -> bytes:
        if self._random.random() < 0.75:
            return content
        number = descriptor.number
        choices: list[Callable[[], bytes]] = [
            lambda: b"",
            lambda: content * 2,
            lambda: content[: self._random.randrange(len(content) + 1)],
            lambda: field(number, 0, varint(self._random.choice(_NUMBERS))),
            lambda: field(number, 0, b"\xff" * self._random.choice([3, 10, 11])),
            lambda: field(number, 2, self._random.choice(_TEXTS)),
            lambda: field(number, 1, bytes(8)),
            lambda: field(number, 5, self._random.choice(_BAD_FLOATS)),
            lambda: field(number, self._random.choice([3, 4, 6, 7]), b"") + content,
            lambda: field(self._random.choice([0, 1, 2, 19000, 2**29 - 1]), 2, b"x") + content,
            lambda: varint(number << 3 | 2) + varint(self._random.choice(_NUMBERS)) + content[:50],
        ]
        if descriptor.type == descriptor.TYPE_BYTES and self._random.random() < 0.7:
            choices = [lambda: self._bad_value(content), lambda: content[:-4]]
        return self._random.choice(choices)()

    def _bad_value(self, content: bytes) -> bytes:
        """A reading that is no number, or another one, somewhere in an array."""
        at = self._random.randrange(len(content))
        value = self._random.choice([*_BAD_FLOATS, self._random.randbytes(4)])
        return content[:at] + value + content[at + 4 :]

    def _spoil_bytes(self, content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(self._random.randrange(1, 6)):
            if not changed:
                break
            at = self._random.randrange(min(len(changed), self._random.choice([16, 10**6])))
            changed[at] ^= 1 << self._random.randrange(8)
        if self._random.random() < 0.3:
            del changed[self._random.randrange(len(changed) + 1) :]
        return bytes(changed)

    def _deep(self, depth: int) -> bytes:
        """Messages in messages, or groups in groups."""
        if self._random.random() < 0.5:
            return b"\x7b" * depth + b"\x7c" * depth
        content = b""
        for _ in range(min(depth, 200)):
            content = field(1, 2, content)
        return content
