"""The life of a server: listen, answer, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from xec.conditions.dead_list import DeadList
from xec.engines.base import Engine, ModelInfo
from xec.errors import FileError, ServiceError
from xec.io.output import replacing
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1 import reconstruction_pb2_grpc as pb_grpc
from xec_server.address import Address
from xec_server.admin import AdminPort
from xec_server.calls.call import Gate
from xec_server.calls.guard import Guard
from xec_server.calls.limits import CallCount
from xec_server.calls.options import GRPC_OPTIONS
from xec_server.ending import Ending
from xec_server.events.admission import Admission
from xec_server.events.conditions import DeadLists
from xec_server.events.haste import Haste
from xec_server.events.run_lists import RunLists
from xec_server.events.service import ReconstructionService
from xec_server.events.streams import Streams
from xec_server.events.warm_up import warm_up
from xec_server.events.work import EventQueue, Observe, compute, forward
from xec_server.model.engine_watch import EngineLost, EngineWatch
from xec_server.model.gateway import Gateway
from xec_server.model.models import Models, Reopen
from xec_server.notify import READY, STOPPING, keep_alive, notify
from xec_server.operations import Operations
from xec_server.queueing.batcher import Batcher
from xec_server.queueing.forwarder import Forwarder
from xec_server.settings import ServerSettings
from xec_server.telemetry.hub import Telemetry

SERVICE: Final[str] = pb.DESCRIPTOR.services_by_name["Reconstruction"].full_name
LAST_CALLS: Final = 0.2
"""Seconds in which calls that had set out before they could know are refused with a reason; gRPC
cuts off as CANCELLED what it has received but not yet handed over when it stops."""
LAST_SENDS: Final = 1.0
"""Seconds for answers on their way once every event is computed; health watchers end then."""
LAST_COMPUTE: Final = 0.5
"""Seconds for an engine call that was cut off by the grace to come back: it need not hang."""
_LOOK_SECONDS: Final = 0.01

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

log = logging.getLogger(__name__)


class Server:
    """One model behind one address.

    Args:
        engine: warm; the server closes it when it stops, or when it was replaced.
        own: the server's own list of dead sensors, if it holds one.
        settings: how to listen, batch and stop.
        runs: the conditions database, if there is one; closed when the server stops.
        reopen: opens the model that replaces the engine's on demand; None: nothing does.
    """

    def __init__(
        self,
        engine: Engine,
        own: DeadList | None,
        settings: ServerSettings,
        runs: RunLists | None = None,
        reopen: Reopen | None = None,
    ) -> None:
        self.models = Models(engine, reopen, self._follow, warm_up)
        self._settings = settings
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        self.telemetry = Telemetry(settings.telemetry)
        queue = _queue_of(self.models, settings, self.telemetry.observe)
        self.engine_lost = asyncio.Event()
        """Set once the embedded engine does not come back: only another process helps then."""
        self._batcher = queue if isinstance(queue, Batcher) else None
        self._watch: EngineWatch | None = None
        if self._batcher is not None:
            self._watch = EngineWatch(self._batcher, settings.engine_timeout, self._can_answer)
            self.engine_lost = self._watch.lost
        self._queue = self.telemetry.watched(queue)
        self.lists = DeadLists(own, runs)
        admission = Admission(self.models, self.lists)
        self.streams = Streams(admission, self._queue, settings.streams)
        service = ReconstructionService(admission, self._queue, self.streams)
        self.calls = CallCount(settings.limits)
        options = (
            *GRPC_OPTIONS,
            ("grpc.max_allowed_incoming_connections", settings.limits.connections),
        )
        self._grpc = grpc.aio.server(
            interceptors=(self._guard(self.calls, Haste(self._queue)),), options=options
        )
        pb_grpc.add_ReconstructionServicer_to_server(service, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        self.address = settings.address
        self.ending = Ending(settings.grace)
        self.operations = Operations(self)
        self.admin: AdminPort | None = None
        if settings.admin is not None:
            self.admin = AdminPort(self.operations, self._guard(), settings.admin)
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._can = False
        self._announcing: set[asyncio.Task[None]] = set()

    def _guard(self, *inner: Gate) -> Guard:
        """What every call passes, from the outside in."""
        gates: tuple[Gate, ...] = (self._settings.identity.gate, *inner)
        return Guard(gates, self.telemetry.watchers, self._settings.limits)

    async def is_stuck(self) -> bool:
        """Whether threads stay in the embedded engine although the server has stopped."""
        end = time.monotonic() + LAST_COMPUTE
        while self._batcher is not None and self._batcher.busy:
            if time.monotonic() >= end:
                return True
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    @property
    def model(self) -> ModelInfo:
        """Which model answers."""
        return self.models.current.model

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to."""
        return self._stopping

    @property
    def is_serving(self) -> bool:
        """What its health says."""
        return self._can and not self._stopping

    @property
    def batcher(self) -> EventQueue:
        """Where events wait; its counts tell what became of them."""
        return self._queue

    @property
    def queue_limit(self) -> int:
        """Events that may wait in each lane."""
        forwards = isinstance(self.models.current.engine, Gateway)
        return (self._settings.forwarding if forwards else self._settings.batching).queue

    @property
    def conditions_away_since(self) -> datetime | None:
        """Since when the conditions database cannot be asked, as far as is known."""
        return self.lists.away_since

    @property
    def listens_insecurely(self) -> bool:
        """Whether other machines are listened to and nothing is encrypted."""
        return self._settings.is_exposed

    async def start(self) -> None:
        """Listen, and say so by health and by the ready file.

        With Triton behind it that waits until Triton is there and passed: see `ready`.

        Raises:
            ServiceError: the address cannot be listened on.
            FileError: the ready file cannot be written; the server stops again.
        """
        self.address = self._bind(self._settings.address)
        await self._set_health(_NOT_SERVING)
        self.telemetry.start(self)
        await asyncio.to_thread(warm_up, self.model)
        if self.admin is not None:
            await self.admin.start()
        await self._grpc.start()
        if isinstance(self.models.current.engine, Gateway):
            self._follow(self.models.current.engine)
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
            if self.models.current.engine is not gateway:  # one that was replaced
                return
            task = loop.create_task(self._can_answer(can))
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)

        def changed(can: bool) -> None:
            loop.call_soon_threadsafe(tell, can)

        gateway.listen(changed)

    async def _can_answer(self, can: bool) -> None:
        self._can = can
        await self._set_health(_SERVING if self.is_serving else _NOT_SERVING)
        if not can or self._ready.done():
            return
        try:
            if self._settings.ready_file is not None:
                _write_ready(self._settings.ready_file, self.address, self.admin)
        except FileError as error:
            self._ready.set_exception(error)
        else:
            self._ready.set_result(None)

    def _bind(self, wanted: Address) -> Address:
        credentials = self._settings.identity.credentials
        if self._settings.is_exposed:
            log.warning("%s is open to other machines, and nothing is encrypted", wanted)
        try:
            if credentials is None:
                port = self._grpc.add_insecure_port(str(wanted))
            else:
                port = self._grpc.add_secure_port(str(wanted), credentials)
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
        if self._ready.done():
            await self.ending.pause(self._settings.drain_delay)
        self.streams.drain()
        cut_off = 0
        if not await self.ending.finished(self._queue.drain()):
            cut_off = self._queue.counts.unsettled
            log.warning("%d events were not answered within the grace", cut_off)
        if self._watch is not None:
            self._watch.stop()
        self._queue.close()
        await asyncio.sleep(min(LAST_CALLS, self.ending.grace))
        if self._batcher is not None:
            self._batcher.abandon()
        await self._grpc.stop(LAST_SENDS)
        self.ending.is_over(cut_off)
        if self.admin is not None:
            await self.admin.stop(LAST_SENDS)
        await asyncio.to_thread(self.models.end)
        self.lists.close()
        await asyncio.to_thread(self.telemetry.stop)
        self._ready.cancel()
        was_ready = not self._ready.cancelled() and self._ready.exception() is None
        if was_ready and self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)


def _queue_of(models: Models, settings: ServerSettings, observe: Observe) -> EventQueue:
    """Batches are made in exactly one place: here, or in Triton."""

    def largest() -> int:
        return cast("Gateway", models.current.engine).largest_batch()

    if isinstance(models.current.engine, Gateway):
        return Forwarder(partial(forward, observe=observe), settings.forwarding, largest)
    return Batcher(partial(compute, observe=observe), settings.batching)


def _write_ready(path: Path, address: Address, admin: AdminPort | None) -> None:
    """Appears complete or not at all: whoever waits for the file may read it at once."""
    with replacing(path) as file:
        file.write(f"{address}\n".encode())
        if admin is not None:
            file.write(f"admin {admin.address}\n".encode())


async def serve(
    engine: Engine,
    own: DeadList | None,
    settings: ServerSettings,
    announce: Callable[[Server], None],
    runs: RunLists | None = None,
    reopen: Reopen | None = None,
) -> int:
    """Run a server until SIGTERM, SIGINT or an operator's `Drain`.

    A second SIGTERM or SIGINT ends it at once. SIGHUP is an operator's `Reload`.

    Args:
        engine: warm.
        own: the server's own list of dead sensors, if it holds one.
        settings: how to listen, batch and stop.
        announce: called once, when the server is ready.
        runs: the conditions database, if there is one.
        reopen: opens the model that replaces the engine's on demand, if one can.

    Returns:
        The exit status: 0, or by which signal calls were cut off.

    Raises:
        ServiceError: the address cannot be listened on.
        EngineLost: the server has ended, and the engine did not come back.
        FileError: the ready file cannot be written.
    """
    server = Server(engine, own, settings, runs, reopen)
    server.operations.heed_signals()
    await server.start()
    stop = asyncio.create_task(server.ending.told.wait())
    lost = asyncio.create_task(server.engine_lost.wait())
    ready = asyncio.create_task(server.ready())
    alive = asyncio.create_task(keep_alive())
    try:
        await asyncio.wait({stop, lost, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            announce(server)
            notify(READY, f"STATUS=listens on {server.address}")
        await asyncio.wait({stop, lost}, return_when=asyncio.FIRST_COMPLETED)
        notify(STOPPING)
        log.info("stopping: finishing %d waiting events", server.batcher.waiting)
    finally:
        for task in (ready, stop, lost):
            task.cancel()
        await server.stop()
        alive.cancel()
    if await server.is_stuck():
        raise EngineLost(
            "The inference engine did not come back from a call, and the server ends without it "
            f"(a call may take {settings.engine_timeout:g} s, --engine-timeout): start it again."
        )
    return server.ending.exit_status
