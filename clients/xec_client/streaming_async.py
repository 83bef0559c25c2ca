"""A stream of events and answers that is awaited: `xec_client.streaming` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from xec.event import Event
from xec_client.conversation import Conversation, Streamed

_HIDDEN: Final = "Internal error from Core"
_LOOKS: Final = 20
_BETWEEN_LOOKS: Final = 0.01  # seconds
_UNKNOWN: Final = "the connection broke"
_UNHEARD: Final = 4  # calls without an answer


class _Sender:
    """Writes the requests of each call."""

    def __init__(
        self, conversation: Conversation, events: Iterable[Event] | AsyncIterable[Event]
    ) -> None:
        self._conversation = conversation
        self._source = aiter(_awaitable(events))
        self._taking: asyncio.Task[None] | None = None
        self._is_empty = False
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

    async def send(self, call: Any) -> None:
        """All that is to be sent in a call; an error of the call itself is left to its reader."""
        conversation = self._conversation
        try:
            await call.write(conversation.opening())
            while True:
                # First room, then an event: none is taken from its source before it can be sent.
                await self._until(call, lambda: conversation.has_room)
                message = await self._next()
                if message is None:
                    break
                await call.write(message)
            await self._until(call, lambda: conversation.is_settled)
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return

    async def _next(self) -> bytes | None:
        """The message of the next event; None where there is none."""
        while not (self._conversation.has_unsent or self._is_empty):
            if self._taking is None:
                self._taking = asyncio.create_task(self._take())
            # Where the call breaks meanwhile, the event goes into the next one.
            await asyncio.shield(self._taking)
            self._taking = None
        return self._conversation.next_message()

    async def _take(self) -> None:
        """One event from the source, which may let us wait."""
        try:
            event = await anext(self._source, None)
            if event is None:
                self._is_empty = True
            else:
                self._conversation.add(event)
        except Exception as error:  # of the source; the caller gets it after the answers
            self.trouble = error
            self._is_empty = True

    async def _until(self, call: Any, condition: Callable[[], bool]) -> None:
        """Wait, and send the acknowledgements that are due meanwhile."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: condition() or self._conversation.owes)
            if not self._conversation.owes:
                return
            await call.write(self._conversation.acknowledgement())

    async def close(self) -> None:
        """Take no more events."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait([self._taking])


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
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, _UNKNOWN, "")


async def stream(
    call_methods: Sequence[Callable[..., Any]],
    conversation: Conversation,
    events: Iterable[Event] | AsyncIterable[Event],
) -> AsyncIterator[Streamed]:
    """Send `events` and yield what became of each, as the answers come.

    Args:
        call_methods: of the channel to each server.
        conversation: of this stream.
        events: taken when there is room for one more.
    """
    sender = _Sender(conversation, events)
    wait: float | None = 0.0
    unheard = 0
    try:
        while wait is not None:
            await asyncio.sleep(wait)
            call = call_methods[conversation.next_server()]()
            ending = _Ending(call)
            sending = asyncio.create_task(sender.send(call))
            broken, wait = None, None
            try:
                async for message in call:
                    streamed = await sender.receive(message)
                    if streamed is not None:
                        unheard = 0
                        yield streamed
                        await sender.take(streamed)
            except grpc.aio.AioRpcError as error:
                broken = await ending.instead_of(error)
            finally:
                sending.cancel()
                call.cancel()
                await asyncio.wait([sending])
            if broken is None:
                continue
            wait = conversation.goes_on(broken)
            if wait is None and broken.details() == _UNKNOWN and unheard < _UNHEARD:
                # Another call goes on, or hears why not.
                unheard, wait = unheard + 1, 0.0
                conversation.begin_anew()
            if wait is None:
                raise conversation.broken(broken) from broken
    finally:
        await sender.close()
    conversation.check_complete()
    if sender.trouble is not None:
        raise sender.trouble
