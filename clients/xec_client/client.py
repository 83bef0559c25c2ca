"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from xec.engines.priority import Priority
from xec.event import Event, EventBatch, Reconstruction
from xec_client.bearer import Token
from xec_client.connections import BlockingConnections
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
from xec_client.streaming import stream


class Client:
    """Asks a server for reconstructions; may be shared by threads, not across a fork.

    Every call has a deadline and is tried again as `retry` says. All methods raise the errors of
    `xec_client.errors`.

    Example:
        >>> with Client("127.0.0.1:50051") as client:
        ...     answer = client.reconstruct(event)
        ...     print(answer.energy.mean, answer.energy.sigma)
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
        """Prepare the connections, which are made by the first call.

        Args:
            server: address, ``host:port``; or several, separated by commas, of servers that
                answer alike: they are asked in turns, one that is away less than the others.
            timeout: seconds for one request, its retries included.
            retry: when a failed call is tried again.
            tls: of `grpc.ssl_channel_credentials`; None sends in clear.
            token: bearer token, or what gives it for each call (`xec_client.access`).

        Raises:
            UsageError: the address is empty, the timeout is not positive, or the token would be
                sent in clear to another machine.
        """
        self._exchange = Exchange(Settings(server, timeout, retry, tls is not None))
        self._connections = BlockingConnections(self._exchange.settings, tls, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls that still run are cancelled."""
        self._connections.close()

    def reconstruct(
        self, event: Event, dead: Dead = None, *, timeout: float | None = None
    ) -> Reconstruction:
        """Reconstruct one event.

        Args:
            event: counts and times.
            dead: the dead sensors, see `xec_client.requests.Dead`; they add to those that the
                event marks as invalid.
            timeout: seconds, its retries included; the client's own by default.
        """
        return self._follow(self._exchange.reconstruct(event, dead, timeout))

    def reconstruct_batch(
        self,
        events: EventBatch | Sequence[Event],
        dead: Dead = None,
        *,
        timeout: float | None = None,
    ) -> list[Reconstruction]:
        """Reconstruct many events, in as many requests as the server's limits demand.

        Args:
            events: in any number.
            dead: as for `reconstruct`, for all events.
            timeout: seconds for each request, its retries included.
        """
        return self._follow(self._exchange.reconstruct_batch(events, dead, timeout))

    def stream(
        self,
        events: Iterable[Event],
        dead: Dead = None,
        *,
        window: int = DEFAULT_WINDOW,
        lane: Priority = Priority.ONLINE,
        timeout: float | None = None,
    ) -> Iterator[Streamed]:
        """Reconstruct events as they come; answers as they are ready, in any order.

        Memory is bounded on both sides: an event is taken from `events` when less than `window`
        of them are under way, and one is under way until the caller has taken its answer and
        come back for the next. A stream that the server ends for its age, or because nothing
        happened in it, goes on in another call. One that breaks is not begun anew with one
        server: the error says in `unanswered` which events were sent and not answered. With
        several, those go to another one, as `retry` says; each event is answered once.

        Args:
            events: taken in another thread. What it raises is raised here, after the answers to
                what it gave before.
            dead: as for `reconstruct`, for all events.
            window: events under way; the server may allow fewer.
            lane: OFFLINE lets all that is online go first.
            timeout: seconds in which the computation of an event must begin; None: any time.

        Example:
            >>> for streamed in client.stream(events):
            ...     print(streamed.event, streamed.result().energy.mean)
        """
        options = StreamOptions(dead, window, lane, timeout)
        conversation = Conversation(self._exchange.settings, options, self._exchange.choice)
        return stream(self._connections.streams, conversation, events)

    def model(self, *, timeout: float | None = None) -> ModelDescription:
        """Which model answers."""
        return self._follow(self._exchange.model(timeout))

    def wait_ready(self, timeout: float) -> None:
        """Wait until the server serves.

        Raises:
            Unavailable: it does not within `timeout` seconds.
        """
        self._follow(self._exchange.wait_ready(timeout))

    def _follow(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                try:
                    outcome: Any = None
                    if isinstance(step, Send):
                        outcome = self._connections.send(step)
                    else:
                        time.sleep(step.seconds)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            result: Result = end.value
            return result
