"""A stream of events and answers that is awaited: `xec_client.streaming` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio

from xec.event import Event
from xec_client.conversation import Conversation, Streamed

_HIDDEN: Final = "Internal error from Core"
_LOOKS: Final = 20
_BETWEEN_LOOKS: Final = 0.01  # seconds


class _Sender:
    """Writes the requests of a call."""

    def __init__(self, conversation: Conversation, call: Any) -> None:
        self._conversation = conversation
        self._call = call
        self._changed = asyncio.Condition()
        self.trouble: BaseException | None = None

    async def receive(self, message: Any) -> Streamed | None:
        streamed = self._conversation.receive(message)
        await self._tell()
        return streamed

    async def take(self, streamed: Streamed) -> None:
        self._conversation.take(streamed)
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def send(self, events: Iterable[Event] | AsyncIterable[Event]) -> None:
        """All that is to be sent; an error of the call itself is left to its reader."""
        try:
            await self._call.write(self._conversation.opening())
            await self._send_events(aiter(_awaitable(events)))
            await self._until(lambda: self._conversation.is_settled)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return

    async def _send_events(self, events: AsyncIterator[Event]) -> None:
        # First room, then an event: none is taken from its source before it can be sent.
        while True:
            await self._until(lambda: self._conversation.has_room)
            try:
                event = await anext(events, None)
                message = None if event is None else self._conversation.event(event)
            except Exception as error:  # of the source; the caller gets it after the answers
                self.trouble = error
                return
            if message is None:
                return
            await self._call.write(message)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait, and send the acknowledgements that are due meanwhile."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: condition() or self._conversation.owes)
            if not self._conversation.owes:
                return
            await self._call.write(self._conversation.acknowledgement())


async def _awaitable(events: Iterable[Event] | AsyncIterable[Event]) -> AsyncIterator[Event]:
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event


class _Ending:
    """How the server ended a call.

    Where a message is on its way just then, grpc.aio says INTERNAL, and what the server said comes
    before that, after that, or (seen with 1.76) never. All answers arrive all the same.
    """

    def __init__(self, call: Any) -> None:
        self._looks: set[asyncio.Task[None]] = set()
        self._said: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._is_told)

    def _is_told(self, call: Any) -> None:
        look = asyncio.create_task(self._look(call))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self, call: Any) -> None:
        # Nothing here waits once the call is done, so that what is there now is seen.
        details = await call.details()
        if details != _HIDDEN and self._said is None:
            first, last = await call.initial_metadata(), await call.trailing_metadata()
            self._said = grpc.aio.AioRpcError(await call.code(), first, last, details, "")

    async def instead_of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What the server said, where `error` hides it."""
        if error.details() != _HIDDEN:
            return error
        for _ in range(_LOOKS):
            if self._said is not None:
                return self._said
            await asyncio.sleep(_BETWEEN_LOOKS)
        nothing = grpc.aio.Metadata()
        text = "the connection broke"
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, text, "")


async def stream(
    call_method: Callable[..., Any],
    conversation: Conversation,
    events: Iterable[Event] | AsyncIterable[Event],
) -> AsyncIterator[Streamed]:
    """Send `events` and yield what became of each, as the answers come.

    Args:
        call_method: of the channel.
        conversation: of this call.
        events: taken when there is room for one more.
    """
    call = call_method()
    ending = _Ending(call)
    sender = _Sender(conversation, call)
    sending = asyncio.create_task(sender.send(events))
    try:
        async for message in call:
            streamed = await sender.receive(message)
            if streamed is not None:
                yield streamed
                await sender.take(streamed)
    except grpc.aio.AioRpcError as error:
        raise conversation.broken(await ending.instead_of(error)) from error
    finally:
        sending.cancel()
        call.cancel()
        await asyncio.wait([sending])
    conversation.check_complete()
    if sender.trouble is not None:
        raise sender.trouble
