"""A stream of events and answers that blocks: one thread sends, the caller's receives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from xec.event import Event
from xec_client.conversation import Conversation, Streamed


class _Sender:
    """The requests of a call, which gRPC takes in a thread of its own."""

    def __init__(self, conversation: Conversation, events: Iterable[Event]) -> None:
        self._conversation = conversation
        self._events = events
        self._changed = threading.Condition()
        self._stopped = False
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

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def messages(self) -> Iterator[bytes]:
        """All that is to be sent; waits for room, and at the end for the last answer."""
        yield self._conversation.opening()
        try:
            # First room, then an event: none is taken from its source before it can be sent.
            events = iter(self._events)
            while True:
                yield from self._until_room()
                if self._stopped:
                    return
                event = next(events, None)
                if event is None:
                    break
                with self._changed:
                    message = self._conversation.event(event)
                yield message
        except Exception as error:  # of the source; the caller gets it after the answers
            self.trouble = error
        yield from self._until_settled()

    def _until_room(self) -> Iterator[bytes]:
        conversation = self._conversation
        yield from self._until(lambda: conversation.has_room)

    def _until_settled(self) -> Iterator[bytes]:
        conversation = self._conversation
        yield from self._until(lambda: conversation.is_settled)

    def _until(self, condition: Callable[[], bool]) -> Iterator[bytes]:
        """Wait, and send the acknowledgements that are due meanwhile."""
        while True:
            with self._changed:
                self._changed.wait_for(self._something_to_do(condition))
                if self._stopped:
                    return
                if condition() and not self._conversation.owes:
                    return
                message = self._conversation.acknowledgement()
            yield message

    def _something_to_do(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: self._stopped or condition() or self._conversation.owes


def stream(
    call_method: Callable[..., Any], conversation: Conversation, events: Iterable[Event]
) -> Iterator[Streamed]:
    """Send `events` and yield what became of each, as the answers come.

    Args:
        call_method: of the channel.
        conversation: of this call.
        events: taken in another thread, when there is room for one more.
    """
    sender = _Sender(conversation, events)
    call = call_method(sender.messages())
    try:
        for message in call:
            streamed = sender.receive(message)
            if streamed is not None:
                yield streamed
                sender.take(streamed)
    except grpc.RpcError as error:
        raise conversation.broken(error) from error
    finally:
        sender.stop()
        call.cancel()
    conversation.check_complete()
    if sender.trouble is not None:
        raise sender.trouble
