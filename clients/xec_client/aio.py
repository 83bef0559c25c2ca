"""The client for asyncio: the conversations of `xec_client.exchange`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from xec.engines.priority import Priority
from xec.event import Event, EventBatch, Reconstruction
from xec_client.bearer import Token
from xec_client.connections import Connections
from xec_client.conversation import (
    DEFAULT_WINDOW,
    Conversation,
    Streamed,
    StreamOptions,
)
from xec_client.description import ModelDescription
from xec_client.exchange import Exchange, Result, Send, Steps
from xec_client.requests import Dead
from xec_client.retry import DEFAULT_RETRY, RetryPolicy
from xec_client.settings import DEFAULT_TIMEOUT, Settings
from xec_client.streaming_async import stream


class AsyncClient:
    """`xec_client.Client` for asyncio: the same methods, awaited; made inside a running loop.

    Example:
        >>> async with AsyncClient("127.0.0.1:50051") as client:
        ...     answers = await client.reconstruct_batch(events)
    """

    def __init__(
        self,
        server: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy = DEFAULT_RETRY,
        tls: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
    ) -> None:
        """Prepare the connections; see `xec_client.Client`."""
        self._exchange = Exchange(Settings(server, timeout, retry, tls is not None))
        self._connections = Connections(self._exchange.settings, tls, token, grpc.aio)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls that still run are cancelled."""
        for channel in self._connections.channels:
            await channel.close(None)

    async def reconstruct(
        self, event: Event, dead: Dead = None, *, timeout: float | None = None
    ) -> Reconstruction:
        """Reconstruct one event; see `Client.reconstruct`."""
        return await self._follow(self._exchange.reconstruct(event, dead, timeout))

    async def reconstruct_batch(
        self,
        events: EventBatch | Sequence[Event],
        dead: Dead = None,
        *,
        timeout: float | None = None,
    ) -> list[Reconstruction]:
        """Reconstruct many events; see `Client.reconstruct_batch`."""
        return await self._follow(self._exchange.reconstruct_batch(events, dead, timeout))

    def stream(
        self,
        events: Iterable[Event] | AsyncIterable[Event],
        dead: Dead = None,
        *,
        window: int = DEFAULT_WINDOW,
        lane: Priority = Priority.ONLINE,
        timeout: float | None = None,
    ) -> AsyncIterator[Streamed]:
        """Reconstruct events as they come; see `Client.stream`.

        What does not end by itself is closed by `contextlib.aclosing`.

        Example:
            >>> async for streamed in client.stream(events):
            ...     print(streamed.event, streamed.result().energy.mean)
        """
        options = StreamOptions(dead, window, lane, timeout)
        conversation = Conversation(self._exchange.settings, options, self._exchange.choice)
        return stream(self._connections.streams, conversation, events)

    async def model(self, *, timeout: float | None = None) -> ModelDescription:
        """Which model answers."""
        return await self._follow(self._exchange.model(timeout))

    async def wait_ready(self, timeout: float) -> None:
        """Wait until the server serves; see `Client.wait_ready`."""
        await self._follow(self._exchange.wait_ready(timeout))

    async def _follow(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                try:
                    outcome: Any = None
                    if isinstance(step, Send):
                        outcome = await self._connections.send(step)
                    else:
                        await asyncio.sleep(step.seconds)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            result: Result = end.value
            return result
