"""One connection to Triton: calls with deadlines, all of which can be given up at once.

A link is made, checked and thrown away as a whole. gRPC would connect anew by itself, to whatever
listens by then; so `on_lost` tells of the first moment at which the connection is not what it was
when it was checked, and whoever holds the link replaces it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from xec.errors import EngineAway

_FIRST_LOOK: Final = 10.0
"""Seconds within which gRPC has looked at the state of a connection that is watched."""
_LAST_LOOK: Final = 0.3
"""Seconds after which gRPC no longer looks at the state of a connection that nobody watches: every
0.2 s it does. A look at one that was closed before raises in gRPC's own thread (seen with 1.76)."""
_OPTIONS: Final = (
    # Channels to one address would otherwise share a connection, and a new link a stalled one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # or else 60 s, whatever the line before says
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),  # retrying is the client's part, in one place
    ("grpc.enable_http_proxy", 0),
)


class Link:
    """A connection to one Triton.

    Args:
        address: ``host:port`` of its gRPC service.
        largest_message: bytes of a request or an answer.
    """

    def __init__(self, address: str, largest_message: int) -> None:
        self._address = address
        sizes = (
            ("grpc.max_send_message_length", largest_message),
            ("grpc.max_receive_message_length", largest_message),
        )
        self._channel = grpc.insecure_channel(address, _OPTIONS + sizes)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._lock = threading.Lock()
        self._calls: set[grpc.Future[service_pb2.ModelInferResponse]] = set()
        self._closed = False
        self._looked = threading.Event()
        self._watcher: Callable[[grpc.ChannelConnectivity], None] | None = None

    def infer(
        self, request: service_pb2.ModelInferRequest, seconds: float
    ) -> service_pb2.ModelInferResponse:
        """Run one request.

        Raises:
            grpc.RpcError: it failed, was given up, or took more than `seconds`.
            EngineAway: the link is closed.
        """
        with self._lock:
            if self._closed:
                raise EngineAway(f"The connection to Triton at {self._address} was lost.")
            call = self._stub.ModelInfer.future(request, timeout=seconds)
            self._calls.add(call)
        try:
            return call.result()
        except grpc.FutureCancelledError:
            raise EngineAway(f"The connection to Triton at {self._address} was lost.") from None
        finally:
            with self._lock:
                self._calls.discard(call)

    def config(self, name: str, version: str, seconds: float) -> model_config_pb2.ModelConfig:
        """The configuration of a model as Triton holds it.

        Raises:
            grpc.RpcError: it failed.
        """
        request = service_pb2.ModelConfigRequest(name=name, version=version)
        return self._stub.ModelConfig(request, timeout=seconds).config

    def is_live(self, seconds: float) -> bool:
        """Whether the process answers at all; it may have no model."""
        try:
            return bool(
                self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=seconds).live
            )
        except grpc.RpcError:
            return False

    def on_lost(self, lost: Callable[[], None]) -> None:
        """Call `lost`, from another thread, once the connection is not up.

        Never for a link that is closed; only one function is told.
        """

        def changed(state: grpc.ChannelConnectivity) -> None:
            self._looked.set()
            if state is not grpc.ChannelConnectivity.READY and not self._closed:
                lost()

        with self._lock:
            if self._closed:
                return
            self._watcher = changed
            self._channel.subscribe(changed)

    def give_up(self) -> None:
        """Give up all calls under way; new ones are refused."""
        with self._lock:
            self._closed = True
            calls = tuple(self._calls)
        for call in calls:
            call.cancel()

    def close(self) -> None:
        """Give up all calls and disconnect; not from a callback of `on_lost`."""
        self.give_up()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            self._looked.wait(_FIRST_LOOK)
            self._channel.unsubscribe(watcher)
            time.sleep(_LAST_LOOK)
        self._channel.close()
