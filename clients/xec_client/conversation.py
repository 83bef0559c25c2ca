"""A stream of events as the client sees it, without the waiting.

`Client.stream` and `AsyncClient.stream` do the waiting, one by blocking and one by awaiting. With
one server a stream is one `ReconstructStream` call, and the next one where the server ends it for
its age or because nothing happens in it. With several it also goes on in another call where one
breaks. What was not answered is sent again: each event is answered once all the same.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import grpc

from xec.engines.priority import Priority
from xec.errors import UsageError, Violation
from xec.event import Event, Reconstruction
from xec.wire.codec import event_to_proto, reconstruction_from_proto
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client.choice import Choice
from xec_client.errors import ClientError, ProtocolDefect, Unanswered
from xec_client.requests import Dead, dead_list_message
from xec_client.settings import SERVICE, Settings, require_timeout
from xec_client.status import Attempted, Failure, error_of, failure_of

STREAM_PATH: Final = f"/{SERVICE}/ReconstructStream"
DEFAULT_WINDOW: Final = 64
"""Events under way: enough for a server on a CPU; one on a GPU takes batches of as many."""

_LANES: Final = {Priority.ONLINE: pb.LANE_ONLINE, Priority.OFFLINE: pb.LANE_OFFLINE}
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_DRAINING: Final = "DRAINING"
_OPEN_ANOTHER: Final = frozenset({"STREAM_IDLE", "STREAM_TOO_OLD"})
"""Reasons for which a server in good health ends a stream."""
_ACKNOWLEDGED_AT_ONCE: Final = 4  # messages of acknowledgements in the time of one window


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """What became of one event of a stream.

    Args:
        place: of the event among those of the stream, from 0.
        run, event: its numbers.
        reconstruction: the answer, or None where the server refused this event.
        error: why it did; None where there is an answer.
    """

    place: int
    run: int
    event: int
    reconstruction: Reconstruction | None
    error: ClientError | None

    def result(self) -> Reconstruction:
        """The answer.

        Raises:
            ClientError: the server refused this event.
        """
        if self.reconstruction is None:
            assert self.error is not None
            raise self.error
        return self.reconstruction


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What holds for a whole stream.

    Args:
        dead: the dead sensors, as for single events.
        window: events that are sent and not yet taken by the caller, at most.
        lane: ONLINE goes first in the server; OFFLINE is for what can wait.
        timeout: seconds in which the computation of an event must begin; None: any time.

    Raises:
        UsageError: the window is below 1, or the timeout is none.
    """

    dead: Dead = None
    window: int = DEFAULT_WINDOW
    lane: Priority = Priority.ONLINE
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"The window of a stream is at least 1 event, not {self.window}.")
        if self.timeout is not None:
            require_timeout(self.timeout)


class Conversation:
    """What was taken, sent, answered and acknowledged. Not for several threads at once.

    Args:
        settings: of the client.
        options: of the stream.
        choice: among the servers.
    """

    def __init__(self, settings: Settings, options: StreamOptions, choice: Choice) -> None:
        self._server = settings.server
        self._settings = settings
        self._options = options
        self._choice = choice
        self._asked = 0
        self._has_others = len(settings.addresses) > 1
        self._dead = dead_list_message(options.dead)
        self._window = 0  # nothing may be sent before the server has said how much
        self._added = 0
        self._held = 0  # of those that were sent in this call
        self._waiting: dict[int, Unanswered] = {}
        self._messages: dict[int, bytes] = {}
        self._unsent: deque[int] = deque()
        self._taken: list[int] = []
        self._calls_in_vain = 1

    @property
    def has_room(self) -> bool:
        """Whether one more event may be sent."""
        return self._held < self._window

    @property
    def is_settled(self) -> bool:
        """Whether all that was sent is answered and acknowledged."""
        return not (self._held or self._waiting)

    @property
    def owes(self) -> bool:
        """Whether acknowledgements are due: many, or nothing else is under way."""
        few = max(self._window // _ACKNOWLEDGED_AT_ONCE, 1)
        pressing = not self.has_room or not self._waiting
        return bool(self._taken) and (pressing or len(self._taken) >= few)

    def opening(self) -> bytes:
        """The first message."""
        opening = pb.StreamOpen(
            dead_list=self._dead,
            lane=_LANES[self._options.lane],
            window=self._options.window,
            acknowledges=True,
        )
        return _encoded(pb.StreamRequest(open=opening))

    @property
    def has_unsent(self) -> bool:
        """Whether an event waits to be sent."""
        return bool(self._unsent)

    def add(self, event: Event) -> None:
        """One more event is to be sent."""
        place = self._added
        timeout = self._options.timeout or 0.0
        message = pb.StreamEvent(id=place, event=event_to_proto(event), timeout=timeout)
        self._messages[place] = _encoded(pb.StreamRequest(event=message))
        self._added += 1
        self._waiting[place] = Unanswered(place, event.run, event.event)
        self._unsent.append(place)

    def next_message(self) -> bytes | None:
        """The message of the next event, which uses up room; None where there is none to send."""
        if not self._unsent:
            return None
        place = self._unsent.popleft()
        self._held += 1
        return self._messages[place]  # it may have to be sent once more

    def next_server(self) -> int:
        """The number of the server that gets the next call."""
        self._asked = self._choice.next()
        return self._asked

    def goes_on(self, error: Any) -> float | None:
        """Seconds after which the rest may be sent in another call; None where it may not.

        Args:
            error: with which the call ended.
        """
        failure, calls = self._failure_of(error), self._calls_in_vain
        if failure.reason in _OPEN_ANOTHER:
            self.begin_anew()
            return 0.0
        if not self._has_others:
            return None
        at_once = self._choice.failed(self._asked, failure)
        wait = self._settings.retry.wait_before_next(failure, calls, math.inf, random.random)
        if wait is None:
            return None
        self._calls_in_vain += 1
        self.begin_anew()
        return 0.0 if at_once else wait

    def begin_anew(self) -> None:
        """Send in another call what is not answered."""
        self._unsent = deque(self._waiting)
        self._taken, self._held, self._window = [], 0, 0

    def acknowledgement(self) -> bytes:
        """The message that acknowledges all that was taken, which makes room."""
        taken, self._taken = self._taken, []
        self._held -= len(taken)
        message = pb.StreamAcknowledgement(id=taken)
        return _encoded(pb.StreamRequest(acknowledgement=message))

    def take(self, streamed: Streamed) -> None:
        """The caller has taken an answer, and come back for the next one."""
        self._taken.append(streamed.place)

    def receive(self, message: pb.StreamResponse) -> Streamed | None:
        """What a message of the server says of an event; None where it only opens the stream.

        Raises:
            ProtocolDefect: it answers what was not asked.
        """
        kind = message.WhichOneof("content")
        if kind == "opened" and not self._window and message.opened.window:
            self._window = min(message.opened.window, self._options.window)
            return None
        answer = message.answer
        if kind == "answer" and self._is_put_off(answer):
            return None
        asked = self._waiting.pop(answer.id, None) if kind == "answer" else None
        if asked is None or (asked.run, asked.event) != (answer.run, answer.event):
            raise self._defect("answered what it was not asked for")
        self._messages.pop(answer.id, None)
        self._calls_in_vain = 1
        if answer.WhichOneof("outcome") == "response":
            reconstruction = reconstruction_from_proto(answer.response)
            if (reconstruction.run, reconstruction.event) != (asked.run, asked.event):
                raise self._defect("answered an event by the reconstruction of another one")
            return Streamed(*asked, reconstruction, None)
        return Streamed(*asked, None, self._refused(answer.error))

    def _is_put_off(self, answer: pb.StreamAnswer) -> bool:
        """Whether the server drains, and the event waits for the next call, to another one."""
        waits = self._has_others and answer.id in self._waiting
        return waits and bool(answer.error.reason == _DRAINING)

    def _refused(self, error: pb.EventError) -> ClientError:
        failure = Failure(
            code=_CODES.get(error.code, grpc.StatusCode.UNKNOWN),
            details=error.message.removesuffix("."),
            reason=error.reason,
            retry_after=error.retry_delay if error.HasField("retry_delay") else None,
            violations=tuple(Violation(one.field, one.description) for one in error.violations),
        )
        return error_of(failure, self._attempted)

    def _failure_of(self, error: Any) -> Failure:
        return failure_of(error, self._settings.encrypted)

    @property
    def _attempted(self) -> Attempted:
        return Attempted(self._server, 1, self._options.timeout or 0.0)

    def _defect(self, what: str) -> ClientError:
        text = f"The server at {self._server} {what}, which is a defect to report."
        return self._naming(ProtocolDefect(text, server=self._server))

    def broken(self, error: Any) -> ClientError:
        """The error of a call that ended early, with what it left unanswered."""
        return self._naming(error_of(self._failure_of(error), self._attempted))

    def check_complete(self) -> None:
        """After a call that ended well.

        Raises:
            ProtocolDefect: something was left unanswered all the same.
        """
        if self._waiting:
            raise self._defect("ended a stream before its time")

    def _naming(self, error: ClientError) -> ClientError:
        error.unanswered = tuple(self._waiting.values())
        if error.unanswered:
            count, first = len(error.unanswered), error.unanswered[0]
            text = str(error).removesuffix(".")
            tail = f"the first is event {first.event} of run {first.run}."
            error.args = (f"{text}; {count} events were sent and not answered, {tail}",)
        return error


def _encoded(message: pb.StreamRequest) -> bytes:
    content: bytes = message.SerializeToString()
    return content
