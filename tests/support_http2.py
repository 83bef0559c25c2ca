"""HTTP/2 by hand over one socket: what no gRPC library would send."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREFIX = "/xec.v1.Reconstruction/"
_WINDOW = 2**31 - 1 - 65535


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, whatever it means."""
    length = len(payload).to_bytes(3, "big")
    return length + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(content: bytes, compressed: bool = False) -> bytes:
    """A gRPC message with its prefix."""
    return struct.pack(">BI", compressed, len(content)) + content


def zeros_in_gzip(size: int) -> bytes:
    """So many zero bytes, compressed, without ever holding them."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


@dataclass
class Reply:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> str:
        return self.headers.get("grpc-status", "")


class Connection:
    """One HTTP/2 connection; nothing is acknowledged unless `answers` is set.

    Args:
        answers: opens flow-control windows again for what has arrived.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        self.reader, self.writer = reader, writer
        self.replies: dict[int, Reply] = {}
        self.gone = asyncio.Event()
        self._answers = answers
        self._window = asyncio.Event()
        config = h2.config.H2Configuration(validate_inbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self.h2.initiate_connection()
        if self._answers:
            self.h2.increment_flow_control_window(_WINDOW)
        await self.flush()
        self._task = asyncio.create_task(self._read())

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def _read(self) -> None:
        with suppress(OSError):
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._on(event)
                await self.flush()
        self.gone.set()
        self._window.set()

    def _on(self, event: h2.events.Event) -> None:
        number = getattr(event, "stream_id", None)
        reply = self.replies.setdefault(number, Reply()) if number else Reply()
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                texts = ((k.decode(), v.decode("latin-1")) for k, v in event.headers)
                reply.headers.update(texts)
            case h2.events.DataReceived():
                reply.data += event.data
                if self._answers and event.flow_controlled_length:
                    size = event.flow_controlled_length
                    self.h2.acknowledge_received_data(size, event.stream_id)
            case h2.events.StreamReset():
                reply.reset = event.error_code
                reply.ended = True
            case h2.events.StreamEnded():
                reply.ended = True
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._window.set()
            case _:
                pass

    async def call(self, method: str, *extra: tuple[str, str]) -> int:
        """Open a call and send nothing of its message."""
        number = self.h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method if method.startswith("/") else PREFIX + method),
            (":authority", "server"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *extra,
        ]
        self.h2.send_headers(number, headers)
        await self.flush()
        return number

    async def send(self, stream: int, content: bytes, end: bool = False) -> int:
        """Send as much as the server lets in; how much that was after a second of standstill, or
        when the server has ended the call."""
        sent = 0
        while sent < len(content) and not self.gone.is_set():
            if self.replies.get(stream, Reply()).ended:
                return sent
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room <= 0:
                self._window.clear()
                try:
                    await asyncio.wait_for(self._window.wait(), 1)
                except TimeoutError:
                    return sent
                continue
            piece = content[sent : sent + room]
            sent += len(piece)
            try:
                self.h2.send_data(stream, piece, end_stream=end and sent == len(content))
            except h2.exceptions.StreamClosedError:
                return sent
            await self.flush()
        return sent

    async def raw(self, content: bytes) -> None:
        """Bytes as they are, behind the back of the state machine."""
        self.writer.write(content)
        await self.writer.drain()

    async def reply(self, stream: int, seconds: float = 30) -> Reply:
        """Once the call has ended."""
        end = asyncio.get_running_loop().time() + seconds
        while not (self.replies.get(stream) and self.replies[stream].ended):
            assert asyncio.get_running_loop().time() < end, self.replies
            assert not self.gone.is_set(), "the connection was closed"
            await asyncio.sleep(0.002)
        return self.replies[stream]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def connected(
    address: str, begin: bool = True, answers: bool = True
) -> AsyncIterator[Connection]:
    """A connection; `begin` sends preface and settings."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = Connection(reader, writer, answers)
    try:
        if begin:
            await connection.begin()
        yield connection
    finally:
        await connection.close()
