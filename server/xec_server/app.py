"""The life of a server: listen, answer, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from xec.conditions.dead_list import DeadList
from xec.engines.base import Engine, ModelInfo
from xec.errors import FileError, ServiceError
from xec.io.output import replacing
from xec.wire.limits import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1 import reconstruction_pb2_grpc as pb_grpc
from xec_server.admission import Admission
from xec_server.batcher import Batcher
from xec_server.calls import Gate
from xec_server.conditions import DeadLists
from xec_server.engine_watch import EngineLost, EngineWatch
from xec_server.forwarder import Forwarder
from xec_server.gateway import Gateway
from xec_server.guard import Guard
from xec_server.run_lists import RunLists
from xec_server.service import ReconstructionService
from xec_server.settings import Address, ServerSettings
from xec_server.streams import Streams
from xec_server.warm_up import warm_up
from xec_server.work import EventQueue, computation, forwarding

SERVICE: Final[str] = pb.DESCRIPTOR.services_by_name["Reconstruction"].full_name
LAST_CALLS: Final = 0.2
"""Seconds in which calls that had set out before they could know are refused with a reason; gRPC
cuts off as CANCELLED what it has received but not yet handed over when it stops."""
LAST_SENDS: Final = 1.0
"""Seconds for answers on their way once every event is computed; health watchers end then."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

log = logging.getLogger(__name__)

GRPC_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls unnoticed
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 100),
    # With it, streams that the client has ended but the server not yet tidied up count against
    # the limit, and a client that keeps to it sees UNAVAILABLE in a burst of more than 100 calls.
    ("grpc.http.overload_protection", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 15_000),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 300_000),
)


class Server:
    """One model behind one address.

    Args:
        engine: warm; the server closes it when it stops.
        own: the server's own list of dead sensors, if it holds one.
        settings: how to listen, batch and stop.
        runs: the conditions database, if there is one; closed when the server stops.
    """

    def __init__(
        self,
        engine: Engine,
        own: DeadList | None,
        settings: ServerSettings,
        runs: RunLists | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        self._queue = _queue_of(engine, settings)
        self.engine_lost = asyncio.Event()
        """Set once the embedded engine does not come back: only another process helps then."""
        self._watch: EngineWatch | None = None
        if isinstance(self._queue, Batcher):
            self._watch = EngineWatch(self._queue, settings.engine_timeout, self._can_answer)
            self.engine_lost = self._watch.lost
        self._lists = DeadLists(own, runs)
        admission = Admission(engine.model, self._lists)
        self.streams = Streams(admission, self._queue, settings.streams)
        service = ReconstructionService(admission, self._queue, self.streams)
        self._grpc = grpc.aio.server(interceptors=(self._guard(),), options=GRPC_OPTIONS)
        pb_grpc.add_ReconstructionServicer_to_server(service, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        self.address = settings.address
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._announcing: set[asyncio.Task[None]] = set()

    def _guard(self) -> Guard:
        """What every call passes, from the outside in."""
        watchers: tuple[Gate, ...] = ()
        gates: tuple[Gate, ...] = ()
        return Guard(gates, watchers)

    @property
    def is_stuck(self) -> bool:
        """Whether threads are in the embedded engine, which a server that has stopped has not."""
        return isinstance(self._queue, Batcher) and self._queue.busy > 0

    @property
    def model(self) -> ModelInfo:
        """Which model answers."""
        return self._engine.model

    @property
    def batcher(self) -> EventQueue:
        """Where events wait; its counts tell what became of them."""
        return self._queue

    async def start(self) -> None:
        """Listen, and say so by health and by the ready file.

        With Triton behind it that waits until Triton is there and passed: see `ready`.

        Raises:
            ServiceError: the address cannot be listened on.
            FileError: the ready file cannot be written; the server stops again.
        """
        self.address = self._bind(self._settings.address)
        await self._set_health(_NOT_SERVING)
        await asyncio.to_thread(warm_up, self._engine.model)
        await self._grpc.start()
        if isinstance(self._engine, Gateway):
            self._follow(self._engine)
            return
        await self._can_answer(True)
        if self._watch is not None:
            self._watch.start()
        if self._ready.exception() is not None:
            await self.stop()
            self._ready.result()

    async def ready(self) -> None:
        """Wait until the server can answer for the first time.

        Raises:
            FileError: the ready file cannot be written.
        """
        await asyncio.shield(self._ready)

    def _follow(self, gateway: Gateway) -> None:
        """Let health say whether the engine is there, from now on."""
        loop = asyncio.get_running_loop()

        def tell(can: bool) -> None:
            task = loop.create_task(self._can_answer(can))
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)

        def changed(can: bool) -> None:
            loop.call_soon_threadsafe(tell, can)

        gateway.listen(changed)

    async def _can_answer(self, can: bool) -> None:
        await self._set_health(_SERVING if can and not self._stopping else _NOT_SERVING)
        if not can or self._ready.done():
            return
        try:
            if self._settings.ready_file is not None:
                _write_ready(self._settings.ready_file, self.address)
        except FileError as error:
            self._ready.set_exception(error)
        else:
            self._ready.set_result(None)

    def _bind(self, wanted: Address) -> Address:
        try:
            port = self._grpc.add_insecure_port(str(wanted))
        except RuntimeError as error:
            raise ServiceError(
                f"Nothing can listen on {wanted}: is the port in use, or the host of another "
                "machine? Choose another one with --listen."
            ) from error
        return Address(wanted.host, port)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self) -> None:
        """Finish what was accepted, within the grace, and end; new calls are refused."""
        self._stopping = True
        await self._set_health(_NOT_SERVING)
        self.streams.drain()
        try:
            await asyncio.wait_for(self._queue.drain(), self._settings.grace)
        except TimeoutError:
            log.warning("%d events were still waiting after the grace", self._queue.waiting)
        if self._watch is not None:
            self._watch.stop()
        self._queue.close()
        await asyncio.sleep(min(LAST_CALLS, self._settings.grace))
        if isinstance(self._queue, Batcher):
            self._queue.abandon()
        await self._grpc.stop(LAST_SENDS)
        self._engine.close()
        self._lists.close()
        self._ready.cancel()
        was_ready = not self._ready.cancelled() and self._ready.exception() is None
        if was_ready and self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)


def _queue_of(engine: Engine, settings: ServerSettings) -> EventQueue:
    """Batches are made in exactly one place: here, or in Triton."""
    if isinstance(engine, Gateway):
        return Forwarder(forwarding(engine), settings.forwarding, engine.largest_batch)
    return Batcher(computation(engine), settings.batching)


def _write_ready(path: Path, address: Address) -> None:
    """Appears complete or not at all: whoever waits for the file may read it at once."""
    with replacing(path) as file:
        file.write(f"{address}\n".encode())


async def serve(
    engine: Engine,
    own: DeadList | None,
    settings: ServerSettings,
    announce: Callable[[Server], None],
    runs: RunLists | None = None,
) -> None:
    """Run a server until SIGTERM or SIGINT.

    Args:
        engine: warm.
        own: the server's own list of dead sensors, if it holds one.
        settings: how to listen, batch and stop.
        announce: called once, when the server is ready.
        runs: the conditions database, if there is one.

    Raises:
        ServiceError: the address cannot be listened on.
        EngineLost: the server has ended, and the engine did not come back.
        FileError: the ready file cannot be written.
    """
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    server = Server(engine, own, settings, runs)
    await server.start()
    stop = asyncio.create_task(told_to_stop.wait())
    lost = asyncio.create_task(server.engine_lost.wait())
    ready = asyncio.create_task(server.ready())
    try:
        await asyncio.wait({stop, lost, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            announce(server)
        await asyncio.wait({stop, lost}, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping: finishing %d waiting events", server.batcher.waiting)
    finally:
        for task in (ready, stop, lost):
            task.cancel()
        await server.stop()
    if server.is_stuck:
        raise EngineLost(
            "The inference engine did not come back from a call, and the server ends without it "
            f"(a call may take {settings.engine_timeout:g} s, --engine-timeout): start it again."
        )
