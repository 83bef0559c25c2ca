"""All `ReconstructStream` calls of a server: how many there may be, and how they end with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final

from xec.errors import UsageError
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.call import Context, current_caller
from xec_server.calls.refusal import Reason, Refusal
from xec_server.events.admission import Admission
from xec_server.events.event_stream import EventStream, StreamCounts
from xec_server.events.work import EventQueue
from xec_server.queueing.outcomes import DrainingError

_RETRY_SECONDS: Final = 1.0
_NOT_OPENED: Final = (
    "The first message of a stream is `open`, and comes within {seconds:g} s: nothing was read."
)


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How many streams there may be, and how much each may hold.

    Args:
        streams: at a time.
        per_client: of one connection.
        window: events that one stream holds at most; a client may ask for fewer.
        opening: seconds in which the first message comes.
        idle: seconds in which another whole message comes, where all is answered. Half of one is
            memory that gRPC shows to nobody: only that nothing becomes whole is seen.
        longest: seconds after which a stream takes no more and ends in good order; below the
            grace of old connections, which would cut it off.
    """

    streams: int = 64
    per_client: int = 16
    window: int = 256
    opening: float = 10.0
    idle: float = 600.0
    longest: float = 3600.0

    def __post_init__(self) -> None:
        if (
            min(self.streams, self.per_client, self.window) < 1
            or min(self.opening, self.idle, self.longest) <= 0
        ):
            raise UsageError("Streams, streams per client and their window are at least 1.")


class Streams:
    """The streaming calls.

    Args:
        admission: checks events.
        queue: takes them to the engine.
        policy: their limits.
    """

    def __init__(self, admission: Admission, queue: EventQueue, policy: StreamPolicy) -> None:
        self.counts = StreamCounts()
        self._admission = admission
        self._queue = queue
        self._policy = policy
        self._clients: Counter[str] = Counter()
        self._running: set[EventStream] = set()
        self._draining = False
        self._ends: set[asyncio.Event] = set()
        self._numbers = count()

    @property
    def held(self) -> int:
        """Events that all streams hold."""
        return sum(stream.held for stream in tuple(self._running))

    @property
    def open(self) -> int:
        """Streams."""
        return self._clients.total()

    def drain(self) -> None:
        """Let streams accept no more; each ends when all that it accepted is answered."""
        self._draining = True
        for end in self._ends:
            end.set()

    async def serve(self, requests: AsyncIterator[pb.StreamRequest], context: Context) -> None:
        """One call, to its end.

        Raises:
            Refusal: there are too many, or the client breaks the rules.
            DrainingError: the server drains; all that was accepted is answered.
        """
        client = current_caller(context)
        self._enter(client)
        try:
            opening = await self._opening(requests)
            await self._follow(opening, requests, context, client)
        finally:
            self._clients -= Counter((client,))

    def _enter(self, client: str) -> None:
        if self._draining:
            raise DrainingError
        policy = self._policy
        if self.open >= policy.streams or self._clients[client] >= policy.per_client:
            self.counts.refused += 1
            raise Refusal(
                Reason.TOO_MANY_STREAMS,
                f"There are at most {policy.streams} streams, {policy.per_client} of one client: "
                "close one, or send more events through it.",
                retry_after=_RETRY_SECONDS,
            )
        self._clients[client] += 1

    async def _opening(self, requests: AsyncIterator[pb.StreamRequest]) -> pb.StreamOpen:
        seconds = self._policy.opening
        try:
            first = await asyncio.wait_for(anext(requests, None), seconds)
        except TimeoutError:
            first = None
        if first is None or first.WhichOneof("content") != "open":
            raise Refusal(Reason.STREAM_NOT_OPENED, _NOT_OPENED.format(seconds=seconds))
        self._admission.models.check_version(first.open.model_version)
        opening: pb.StreamOpen = first.open
        return opening

    async def _follow(
        self,
        opening: pb.StreamOpen,
        requests: AsyncIterator[pb.StreamRequest],
        context: Context,
        client: str,
    ) -> None:
        window = min(opening.window or self._policy.window, self._policy.window)
        remaining = context.time_remaining()
        deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
        path = (client, f"stream {next(self._numbers)}")
        stream = EventStream(
            opening, window, path, self._admission, self._queue, self.counts, deadline
        )
        self.counts.opened += 1
        self._running.add(stream)
        try:
            with self._end() as end:
                await context.write(pb.StreamResponse(opened=pb.StreamOpened(window=window)))
                await stream.run(requests, context.write, end, self._policy.idle)
        except DrainingError:
            if self._draining:
                raise
            raise Refusal(
                Reason.STREAM_TOO_OLD,
                f"A stream ends after {self._policy.longest:g} s; all that was accepted is "
                "answered: open another one.",
            ) from None
        finally:
            self._running.discard(stream)

    @contextmanager
    def _end(self) -> Iterator[asyncio.Event]:
        """Set when a stream is to take no more."""
        end = asyncio.Event()
        if self._draining:
            end.set()
        self._ends.add(end)
        timer = asyncio.get_running_loop().call_later(self._policy.longest, end.set)
        try:
            yield end
        finally:
            timer.cancel()
            self._ends.discard(end)
