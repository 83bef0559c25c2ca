"""What an operator does to a running server, by a call or by a signal: reload, drain, look."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Protocol

from xec.lineage import Provenance
from xec.wire.codec import provenance_to_proto
from xec.wire.v1 import admin_pb2 as pb
from xec_server.address import Address
from xec_server.calls.refusal import Refusal
from xec_server.ending import Ending
from xec_server.events.conditions import DeadLists
from xec_server.events.streams import Streams
from xec_server.events.work import EventQueue
from xec_server.model.models import Models
from xec_server.queueing.outcomes import DrainingError

log = logging.getLogger(__name__)


class Operated(Protocol):
    """What is asked of a server."""

    ending: Ending
    models: Models
    streams: Streams
    lists: DeadLists
    address: Address

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to."""
        ...

    @property
    def is_serving(self) -> bool:
        """What its health says."""
        ...

    @property
    def batcher(self) -> EventQueue:
        """Where events wait; its counts tell what became of them."""
        ...


class Operations:
    """A server in the hands of its operator.

    Args:
        server: which one.
    """

    def __init__(self, server: Operated) -> None:
        self._server = server
        self._began = time.monotonic()
        self._reloads: set[asyncio.Task[None]] = set()

    async def reload(self, version: int | None = None) -> tuple[Provenance, bool]:
        """Let another model answer, without a failed call; see `Models.swap`.

        Args:
            version: folder in the repository; None: as at the start.

        Returns:
            The provenance of the model that answers now, and whether it did not before.

        Raises:
            Refusal: it cannot be opened or does not fit; the old one goes on.
            DrainingError: the server is stopping.
        """
        if self._server.is_stopping:
            raise DrainingError
        models = self._server.models
        before = models.current.model
        changed = await models.swap(version) is not before
        return models.current.provenance, changed

    async def drain(self, grace: float | None = None) -> int:
        """Have `serve` stop the server, and wait until nothing is under way any more.

        Args:
            grace: seconds for what was accepted; None: those of the settings.

        Returns:
            Events without an answer when the time was over.

        Raises:
            Refusal: it is stopping already.
        """
        self._server.ending.asked(grace)
        return await self._server.ending.over()

    def status(self) -> pb.GetStatusResponse:
        """What the server does just now."""
        server = self._server
        fates = [field.name for field in pb.EventCounts.DESCRIPTOR.fields]
        counts = {fate: getattr(server.batcher.counts, fate) for fate in fates}
        return pb.GetStatusResponse(
            provenance=provenance_to_proto(server.models.current.provenance),
            uptime_seconds=time.monotonic() - self._began,
            events=pb.EventCounts(**counts),
            waiting=server.batcher.waiting,
            streams=server.streams.open,
            draining=server.is_stopping,
            serving=server.is_serving,
            conditions=server.lists.source,
            swaps=server.models.swaps,
            models_open=server.models.in_use,
            address=str(server.address),
        )

    def heed_signals(self) -> None:
        """SIGTERM and SIGINT end the server, SIGHUP is `reload`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._server.ending.signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    def _hung_up(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload_quietly())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_quietly(self) -> None:
        try:
            await self.reload()
        except (Refusal, DrainingError):
            return  # the log says why
        except Exception:
            log.exception("the model was not replaced")
