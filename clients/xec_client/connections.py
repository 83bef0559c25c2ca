"""The channels of a client, one to each of its servers, and the methods that are called there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client.bearer import Metadata, Token, bearer
from xec_client.conversation import STREAM_PATH
from xec_client.exchange import METHODS, Send
from xec_client.settings import Settings
from xec_client.trace import trace_metadata

_DECODE_STREAM: Final = pb.StreamResponse.FromString


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
        name_caller = bearer(settings.addresses, token, tls is not None)
        options = settings.channel_options
        self.channels: list[Any] = [
            library.insecure_channel(address, options)
            if tls is None
            else library.secure_channel(address, tls, options)
            for address in settings.addresses
        ]
        self._calls = [
            {
                method: _named(channel.unary_unary(method.path, None, method.decode), name_caller)
                for method in METHODS
            }
            for channel in self.channels
        ]
        self.streams = [
            _named(channel.stream_stream(STREAM_PATH, None, _DECODE_STREAM), name_caller)
            for channel in self.channels
        ]

    def send(self, step: Send) -> Any:
        """Begin a call; what comes back is that of the library."""
        return self._calls[step.server][step.method](step.request, timeout=step.timeout)


def _named(call: Callable[..., Any], name_caller: Callable[[], Metadata]) -> Callable[..., Any]:
    """A method of a stub whose calls say who calls, and within which span."""

    def with_metadata(*arguments: Any, **options: Any) -> Any:
        metadata = (*name_caller(), *trace_metadata()) or None
        return call(*arguments, metadata=metadata, **options)

    return with_metadata
