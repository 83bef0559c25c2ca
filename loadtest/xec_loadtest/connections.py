"""Many clients of one server, as a generator needs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from xec.event import Event
from xec_client import AsyncClient
from xec_client.retry import NO_RETRY
from xec_loadtest.senders import Ask

CONNECTIONS: Final = 16
"""A server takes 100 calls of one connection at a time; what is beyond would wait in the client,
where the server cannot refuse it."""

READY_SECONDS: Final = 30.0


@asynccontextmanager
async def asking(
    server: str, events: Sequence[Event], timeout: float, connections: int = CONNECTIONS
) -> AsyncIterator[Ask]:
    """What sends the event of a number as a single call, online, without ever trying again.

    Events and connections are taken in turns. Each event marks its dead sensors itself.

    Args:
        server: address, ``host:port``.
        events: sent over and over.
        timeout: seconds for one call.
        connections: clients with a connection of their own.

    Raises:
        ClientError: the server is not ready within 30 s.
    """
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(server, timeout=timeout, retry=NO_RETRY))
            for _ in range(connections)
        ]
        for client in clients:
            await client.wait_ready(READY_SECONDS)

        async def ask(number: int) -> None:
            client = clients[number % len(clients)]
            await client.reconstruct(events[number % len(events)], ())

        yield ask
