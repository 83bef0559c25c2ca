"""One `ReconstructStream` call: events in, answers out as they are ready, never many of them held.

An event is held from being read until its answer has left: is acknowledged, where the client said
that it will, or else is handed to the connection. Nothing else of a call grows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from xec.engines.priority import Priority
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.call import current_call
from xec_server.calls.guard import explained
from xec_server.calls.refusal import Reason, Refusal
from xec_server.events.admission import Admission, lane_of
from xec_server.events.work import EventQueue, timed
from xec_server.queueing.lanes import Path
from xec_server.queueing.outcomes import DrainingError


class _State(Enum):
    WORKING = auto()
    READY = auto()
    SENT = auto()


@dataclass(slots=True)
class StreamCounts:
    """What streams did: events = answered + unanswered + those that are held without an answer.

    `unanswered` are of calls that ended before: cancelled, cut off, or against the rules.
    `unacknowledged` were answered in calls that acknowledge, and ended before they did.
    """

    opened: int = 0
    refused: int = 0
    events: int = 0
    answered: int = 0
    unanswered: int = 0
    unacknowledged: int = 0
    most_held: int = 0
    """In one call at a time."""


class EventStream:
    """The events of one call.

    Args:
        opening: what the client said first.
        window: events to hold at most.
        path: whose turns they use.
        admission: checks them.
        queue: takes them to the engine.
        counts: of all streams.
        deadline: of the call, by the clock of the event loop.
    """

    def __init__(
        self,
        opening: pb.StreamOpen,
        window: int,
        path: Path,
        admission: Admission,
        queue: EventQueue,
        counts: StreamCounts,
        deadline: float | None = None,
    ) -> None:
        self._opening = opening
        self._window = window
        self._path = path
        self._admission = admission
        self._queue = queue
        self._counts = counts
        self._deadline = math.inf if deadline is None else deadline
        self._lane = lane_of(opening.lane, Priority.ONLINE)
        self._held: dict[int, _State] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: asyncio.Queue[pb.StreamAnswer | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._is_sending = False
        self._progress = 0.0  # by the clock of the event loop

    @property
    def held(self) -> int:
        """Events that are held now."""
        return len(self._held)

    async def run(
        self,
        requests: AsyncIterator[pb.StreamRequest],
        send: Callable[[pb.StreamResponse], Awaitable[None]],
        draining: asyncio.Event,
        idle: float,
    ) -> None:
        """Answer until the client has closed its side or lets wait, or the server drains.

        Args:
            requests: after the first.
            send: waits while the connection takes no more.
            draining: set when no more events are to be accepted.
            idle: seconds after which a whole message comes, where all is answered.

        Raises:
            Refusal: the client breaks the rules of the call, or brings nothing.
            DrainingError: the server drains; all that was accepted is answered.
        """
        self._note_progress()
        reading = asyncio.create_task(self._read(requests))
        writing = asyncio.create_task(self._write(send))
        end = asyncio.create_task(draining.wait())
        left = asyncio.create_task(self._left_alone(idle))
        try:
            await asyncio.wait({reading, writing, end, left}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
            closed = reading.done()
            if left.done() and not closed:
                raise _idle(idle)
            if closed:
                reading.result()
            else:
                await _cancelled(reading)
            await self._finish(writing)
            if not closed:
                raise DrainingError
        finally:
            await _cancelled(reading, writing, end, left, *self._tasks)
            self._count_lost()

    async def _left_alone(self, seconds: float) -> None:
        """Returns once there has been nothing to compute or to send, and nothing came, for so long.

        While an answer cannot be sent the call cannot be ended either: its status would wait
        behind the answer, and what the connection holds of it with them, but nobody would count it.
        """
        clock = asyncio.get_running_loop()
        while True:
            is_busy = self._tasks or self._is_sending
            since = clock.time() if is_busy else self._progress
            left = since + seconds - clock.time()
            if left <= 0:
                return
            await asyncio.sleep(left)

    def _note_progress(self) -> None:
        self._progress = asyncio.get_running_loop().time()

    async def _finish(self, writing: asyncio.Task[None]) -> None:
        """Answer all that was accepted, unless the connection breaks."""
        while self._tasks and not writing.done():
            await asyncio.wait({writing, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        self._ready.put_nowait(None)
        await writing

    def _count_lost(self) -> None:
        for state in self._held.values():
            self._counts.unanswered += state is not _State.SENT
            self._counts.unacknowledged += state is _State.SENT

    async def _read(self, requests: AsyncIterator[pb.StreamRequest]) -> None:
        if not self._opening.acknowledges:
            await self._room.wait()
        async for request in requests:
            self._note_progress()
            match request.WhichOneof("content"):
                case "event":
                    self._accept(request.event)
                case "acknowledgement":
                    self._acknowledge(request.acknowledgement)
                case _:
                    raise Refusal(
                        Reason.STREAM_NOT_OPENED,
                        "A stream is opened once; then come events and acknowledgements.",
                    )
            if not self._opening.acknowledges:
                await self._room.wait()

    def _accept(self, message: pb.StreamEvent) -> None:
        if message.id in self._held:
            raise Refusal(
                Reason.EVENT_ID_IN_USE,
                f"The event with id {message.id} is still held: choose another id.",
            )
        if len(self._held) >= self._window:
            raise Refusal(
                Reason.WINDOW_EXCEEDED,
                f"{self._window} events are held already: acknowledge answers before sending more.",
            )
        self._held[message.id] = _State.WORKING
        self._counts.events += 1
        self._counts.most_held = max(self._counts.most_held, len(self._held))
        if len(self._held) >= self._window:
            self._room.clear()
        task = asyncio.create_task(self._answer(message, self._deadline_of(message)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _deadline_of(self, message: pb.StreamEvent) -> float | None:
        own = math.inf
        if message.timeout > 0:
            own = asyncio.get_running_loop().time() + message.timeout
        earlier = min(own, self._deadline)
        return earlier if math.isfinite(earlier) else None

    async def _answer(self, message: pb.StreamEvent, deadline: float | None) -> None:
        event = message.event
        answer = pb.StreamAnswer(id=message.id, run=event.run, event=event.event)
        try:
            answer.response.CopyFrom(await self._computed(event, deadline))
        except Exception as error:  # whatever it is, it concerns this event and no other
            what = f"Event {event.event} of run {event.run} in a stream"
            refusal = explained(error, what)
            answer.error.CopyFrom(refusal.event_error())
            if (call := current_call()) is not None:
                call.refuse_event(refusal, event.run, event.event)
        self._note_progress()
        self._held[message.id] = _State.READY
        self._ready.put_nowait(answer)

    async def _computed(self, event: pb.Event, deadline: float | None) -> pb.ReconstructResponse:
        opening = self._opening
        self._queue.check(1, deadline, self._lane, self._path)
        # For each event anew: a stream may be older than the model that answers.
        with self._admission.models.leased(opening.model_version) as served:
            works = await self._admission.works(
                served, [event], ["event"], opening.dead_list, self._lane
            )
            (answered,) = await self._queue.submit(works, deadline, self._lane, self._path)
        return timed(answered)

    async def _write(self, send: Callable[[pb.StreamResponse], Awaitable[None]]) -> None:
        while (answer := await self._ready.get()) is not None:
            if self._opening.acknowledges:
                # Before it is sent: the acknowledgement may be here before `send` returns.
                self._held[answer.id] = _State.SENT
            self._is_sending = True
            await send(pb.StreamResponse(answer=answer))
            self._is_sending = False
            self._note_progress()
            self._counts.answered += 1
            if not self._opening.acknowledges:
                self._let_go(answer.id)

    def _let_go(self, number: int) -> None:
        del self._held[number]
        self._room.set()

    def _acknowledge(self, message: pb.StreamAcknowledgement) -> None:
        for number in message.id:
            if self._held.get(number) is not _State.SENT:
                raise Refusal(
                    Reason.UNKNOWN_ACKNOWLEDGEMENT,
                    f"There is no answer with id {number} to acknowledge: acknowledge each one "
                    "once, in a stream that was opened with `acknowledges`.",
                )
            self._let_go(number)


def _idle(seconds: float) -> Refusal:
    return Refusal(
        Reason.STREAM_IDLE,
        f"A stream that brings no whole message for {seconds:g} s, with all its events answered, "
        "is ended: open another one.",
    )


async def _cancelled(*tasks: asyncio.Task[object]) -> None:
    """End tasks, whatever they were doing."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
