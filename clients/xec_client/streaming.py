"""A stream of events and answers that blocks: one thread sends, the caller's receives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc

from xec.event import Event
from xec_client.conversation import Conversation, Streamed


class _Sender:
    """The requests of each call, which gRPC takes in a thread of its own.

    The thread of a call that ended may still wait for the source of events; what it gets then
    goes into the next call.
    """

    def __init__(self, conversation: Conversation, events: Iterable[Event]) -> None:
        self._conversation = conversation
        self._events = events
        self._source: Iterator[Event] | None = None
        self._changed = threading.Condition()
        self._is_taking = False
        self._is_empty = False
        self._call = 0
        self.trouble: BaseException | None = None

    def receive(self, message: Any) -> Streamed | None:
        with self._changed:
            streamed = self._conversation.receive(message)
            self._changed.notify_all()
        return streamed

    def take(self, streamed: Streamed) -> None:
        with self._changed:
            self._conversation.take(streamed)
            self._changed.notify_all()

    def goes_on(self, error: grpc.RpcError) -> float | None:
        with self._changed:
            self._end_call()
            return self._conversation.goes_on(error)

    def stop(self) -> None:
        with self._changed:
            self._end_call()

    def _end_call(self) -> None:
        self._call += 1
        self._changed.notify_all()

    def messages(self) -> Iterator[bytes]:
        """All that is to be sent in a call; waits for room, and at the end for the last answer."""
        call, conversation = self._call, self._conversation
        yield conversation.opening()
        while True:
            # First room, then an event: none is taken from its source before it can be sent.
            yield from self._until(call, lambda: conversation.has_room)
            message = self._next(call)
            if message is None:
                break
            yield message
        yield from self._until(call, lambda: conversation.is_settled)

    def _next(self, call: int) -> bytes | None:
        """The message of the next event; None where there is none, or the call is over."""
        while True:
            with self._changed:
                # Another thread, of a call that ended, may be at the source still.
                self._changed.wait_for(
                    lambda: self._call != call or not self._is_taking or self._knows_next()
                )
                if self._call != call:
                    return None
                if self._knows_next():
                    return self._conversation.next_message()
                self._is_taking = True
            self._take()

    def _knows_next(self) -> bool:
        return self._conversation.has_unsent or self._is_empty

    def _take(self) -> None:
        """One event from the source, which may let us wait."""
        event: Event | None = None
        try:
            if self._source is None:
                self._source = iter(self._events)
            event = next(self._source, None)
            if event is not None:
                with self._changed:
                    self._conversation.add(event)
        except Exception as error:  # of the source; the caller gets it after the answers
            event, self.trouble = None, error
        with self._changed:
            self._is_taking, self._is_empty = False, event is None
            self._changed.notify_all()

    def _until(self, call: int, condition: Callable[[], bool]) -> Iterator[bytes]:
        """Wait, and send the acknowledgements that are due meanwhile."""
        while True:
            with self._changed:
                self._changed.wait_for(self._something_to_do(call, condition))
                if self._call != call:
                    return
                if condition() and not self._conversation.owes:
                    return
                message = self._conversation.acknowledgement()
            yield message

    def _something_to_do(self, call: int, condition: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: self._call != call or condition() or self._conversation.owes


def stream(
    call_methods: Sequence[Callable[..., Any]], conversation: Conversation, events: Iterable[Event]
) -> Iterator[Streamed]:
    """Send `events` and yield what became of each, as the answers come.

    Args:
        call_methods: of the channel to each server.
        conversation: of this stream.
        events: taken in another thread, when there is room for one more.
    """
    sender = _Sender(conversation, events)
    wait: float | None = 0.0
    try:
        while wait is not None:
            time.sleep(wait)
            call = call_methods[conversation.next_server()](sender.messages())
            try:
                for message in call:
                    streamed = sender.receive(message)
                    if streamed is not None:
                        yield streamed
                        sender.take(streamed)
                wait = None
            except grpc.RpcError as error:
                wait = sender.goes_on(error)
                if wait is None:
                    raise conversation.broken(error) from error
            finally:
                call.cancel()
    finally:
        sender.stop()
    conversation.check_complete()
    if sender.trouble is not None:
        raise sender.trouble
