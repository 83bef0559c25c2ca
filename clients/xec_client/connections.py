"""The channels of a client, one to each of its servers, and the methods that are called there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc

from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client.bearer import Metadata, Token, bearer
from xec_client.conversation import STREAM_PATH
from xec_client.exchange import METHODS, Method, Send
from xec_client.no_connection import is_no_connection
from xec_client.settings import Settings
from xec_client.trace import trace_metadata

_DECODE_STREAM: Final = pb.StreamResponse.FromString


@dataclass(slots=True, eq=False)
class Line:
    """A channel to a server, and what is called there.

    Args:
        channel: made, but not connected before its first call.
        unary: by method.
        stream: begins a stream.
        calls: under way.
    """

    channel: Any
    unary: dict[Method, Callable[..., Any]]
    stream: Callable[..., Any]
    calls: int = 0


class Connections:
    """Open until they are closed; the connections themselves are made by the first call.

    Args:
        settings: of the client.
        tls: of `grpc.ssl_channel_credentials`; None sends in clear.
        token: bearer token, or what gives it for each call.
        library: what makes channels: `grpc`, or `grpc.aio`.

    Raises:
        UsageError: the token would be sent in clear to another machine.
    """

    def __init__(
        self,
        settings: Settings,
        tls: grpc.ChannelCredentials | None,
        token: Token | None,
        library: Any,
    ) -> None:
        self._settings, self._tls, self._library = settings, tls, library
        self._name_caller = bearer(settings.addresses, token, tls is not None)
        self._lines = [self._line(address) for address in settings.addresses]

    def _line(self, address: str) -> Line:
        options = self._settings.channel_options
        channel = (
            self._library.insecure_channel(address, options)
            if self._tls is None
            else self._library.secure_channel(address, self._tls, options)
        )
        return Line(
            channel,
            {
                method: self._named(channel.unary_unary(method.path, None, method.decode))
                for method in METHODS
            },
            self._named(channel.stream_stream(STREAM_PATH, None, _DECODE_STREAM)),
        )

    def _named(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A method of a stub whose calls say who calls, and within which span."""

        def with_metadata(*arguments: Any, **options: Any) -> Any:
            metadata: Metadata | None = (*self._name_caller(), *trace_metadata()) or None
            return call(*arguments, metadata=metadata, **options)

        return with_metadata

    @property
    def channels(self) -> list[Any]:
        """One to each server."""
        return [line.channel for line in self._lines]

    @property
    def streams(self) -> list[Callable[..., Any]]:
        """What begins a stream, by server."""
        return [line.stream for line in self._lines]

    def send(self, step: Send) -> Any:
        """Begin a call; what comes back is that of the library."""
        return self._lines[step.server].unary[step.method](step.request, timeout=step.timeout)


class BlockingConnections(Connections):
    """Those of `grpc`: a channel that could not connect is not asked again, but replaced.

    While no call waits, gRPC 1.76 looks at a connection that is being made every 5 s, which is
    longer than it may take; and calls do not wait in a channel that failed before. A client that
    asked now and then over TLS never found a server that had been away. In a new channel the first
    call waits. `grpc.aio` looks all the time.

    Args:
        settings, tls, token: as of `Connections`.
    """

    def __init__(
        self, settings: Settings, tls: grpc.ChannelCredentials | None, token: Token | None
    ) -> None:
        super().__init__(settings, tls, token, grpc)
        self._lock = threading.Lock()
        self._retired: list[Line] = []
        self._is_closed = False

    def close(self) -> None:
        """Cancel what is under way; nothing is called any more."""
        with self._lock:
            self._is_closed = True
            lines = (*self._lines, *self._retired)
        for line in lines:
            line.channel.close()

    @property
    def streams(self) -> list[Callable[..., Any]]:
        """What begins a stream, by server."""
        return [partial(self._stream, server) for server in range(len(self._lines))]

    def send(self, step: Send) -> Any:
        """Make a call.

        Raises:
            grpc.RpcError: it failed.
        """
        line = self._taken(step.server)
        failed: Any = None
        try:
            return line.unary[step.method](step.request, timeout=step.timeout)
        except grpc.RpcError as error:
            failed = error
            raise
        finally:
            self._left(step.server, line, failed)

    def _stream(self, server: int, requests: Any) -> Any:
        line = self._taken(server)
        try:
            call = line.stream(requests)
        except BaseException:
            self._left(server, line, None)
            raise
        call.add_done_callback(lambda ended: self._left(server, line, ended))
        return call

    def _taken(self, server: int) -> Line:
        """The line for a call that begins; closes those that nobody uses any more."""
        with self._lock:
            line = self._lines[server]
            line.calls += 1
            idle = [one for one in self._retired if not one.calls]
            self._retired = [one for one in self._retired if one.calls]
        for one in idle:  # not by the thread of a call that ends, which closing would wait for
            one.channel.close()
        return line

    def _left(self, server: int, line: Line, ended: Any) -> None:
        """A call is over; `ended` tells how, where that matters."""
        cut_off = (
            ended is not None
            and ended.code() is grpc.StatusCode.UNAVAILABLE
            and is_no_connection(ended.details() or "")
        )
        with self._lock:
            line.calls -= 1
            if cut_off and self._lines[server] is line and not self._is_closed:
                self._retired.append(line)
                self._lines[server] = self._line(self._settings.addresses[server])
