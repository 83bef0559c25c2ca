"""How many calls there may be at a time, and how long one may take."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from xec.errors import UsageError
from xec_server.calls.call import Call
from xec_server.calls.refusal import Reason, Refusal

_RETRY_SECONDS: Final = 0.5
_NOT_COUNTED: Final = frozenset(
    {"/xec.v1.Reconstruction/ReconstructStream", "/grpc.health.v1.Health/Check"}
)
"""Streams have limits of their own; and whoever watches over the server is answered also when it
has much to do."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What calls may take of the server.

    Args:
        connections: at a time; more are closed as they come.
        calls: in progress, streams aside.
        per_client: of these, of one caller. One connection holds no more than 100, so that the
            limit binds callers that have a name and several connections.
        receipts: messages of one caller that are being received at a time; others wait in the
            caller's own connection.
        receiving: seconds in which the message of a call has arrived.
        longest: seconds that a call without a deadline of its own may take.
    """

    connections: int = 512
    calls: int = 1024
    per_client: int = 128
    receipts: int = 8
    receiving: float = 60.0
    longest: float = 600.0

    def __post_init__(self) -> None:
        if min(self.connections, self.calls, self.per_client, self.receipts) < 1:
            raise UsageError("Connections, calls and calls of one client are at least 1.")
        if min(self.receiving, self.longest) <= 0:
            raise UsageError("The times that a call may take are above 0.")


class CallCount:
    """The gate that counts calls in progress; it stands behind the one that names callers.

    Args:
        limits: to keep to.
    """

    def __init__(self, limits: CallLimits) -> None:
        self.refused = 0
        self._limits = limits
        self._callers: Counter[str] = Counter()
        self._total = 0

    @property
    def in_progress(self) -> int:
        """Calls that have passed and not ended."""
        return self._total

    @contextmanager
    def __call__(self, call: Call) -> Iterator[None]:
        """One call.

        Raises:
            Refusal: there are too many, of this caller or in all.
        """
        if call.method in _NOT_COUNTED:
            yield
            return
        caller = call.caller
        self._check(caller)
        self._callers[caller] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]

    def _check(self, caller: str) -> None:
        limits = self._limits
        if self._callers[caller] >= limits.per_client or self._total >= limits.calls:
            self.refused += 1
            raise Refusal(
                Reason.TOO_MANY_CALLS,
                f"There are at most {limits.calls} calls in progress, {limits.per_client} of one "
                "client: wait for some to end, or send more events in each.",
                retry_after=_RETRY_SECONDS,
            )


class Receipts:
    """Lets each caller send a few messages at a time, so that half-sent ones take little memory.

    Args:
        limits: to keep to.
    """

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._callers: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def __call__(self, caller: str) -> AsyncIterator[None]:
        """While one message is being received.

        Raises:
            Refusal: it did not come in time.
        """
        turns, users = self._callers.get(caller, (asyncio.Semaphore(self._limits.receipts), 0))
        self._callers[caller] = turns, users + 1
        try:
            async with asyncio.timeout(self._limits.receiving) as limit, turns:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise Refusal(
                Reason.REQUEST_INCOMPLETE,
                f"The request did not arrive within {self._limits.receiving:g} s.",
            ) from None
        finally:
            self._leave(caller)

    def _leave(self, caller: str) -> None:
        turns, users = self._callers.pop(caller)
        if users > 1:
            self._callers[caller] = turns, users - 1


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """End what takes longer.

    Raises:
        Refusal: it did.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise Refusal(
            Reason.DEADLINE_PASSED,
            f"A call without a deadline ends after {seconds:g} s: give it one, or send less.",
        ) from None
