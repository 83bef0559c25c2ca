"""How many calls there may be at a time, and how long one may take."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from xec.errors import UsageError
from xec_server.calls.call import AtTheEnd, Call
from xec_server.calls.refusal import Reason, Refusal
from xec_server.calls.time_limit import TimeLimit

T = TypeVar("T")

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

    def __call__(self, call: Call) -> AtTheEnd | None:
        """One call.

        Raises:
            Refusal: there are too many, of this caller or in all.
        """
        if call.method in _NOT_COUNTED:
            return None
        self._check(call.caller)
        self._callers[call.caller] += 1
        self._total += 1
        return AtTheEnd(partial(self._leave, call.caller))

    def _leave(self, caller: str) -> None:
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
        self._at_once = limits.receipts
        self._in_time = TimeLimit(
            limits.receiving,
            Reason.REQUEST_INCOMPLETE,
            f"The request did not arrive within {limits.receiving:g} s.",
        )
        self._callers: dict[str, _Turns] = {}

    async def receive(self, caller: str, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` brings, once it is the caller's turn.

        Raises:
            Refusal: it did not come in time.
        """
        turns = self._callers.get(caller)
        if turns is None:
            turns = self._callers[caller] = _Turns(asyncio.Semaphore(self._at_once))
        turns.users += 1
        try:
            with self._in_time():
                async with turns.free:
                    return await read()
        finally:
            turns.users -= 1
            if not turns.users:
                del self._callers[caller]


@dataclass(slots=True)
class _Turns:
    """Of one caller, and how many use them or wait for one."""

    free: asyncio.Semaphore
    users: int = 0


def longest_call(limits: CallLimits) -> TimeLimit:
    """The limit of calls that have none of their own."""
    return TimeLimit(
        limits.longest,
        Reason.DEADLINE_PASSED,
        f"A call without a deadline ends after {limits.longest:g} s: give it one, or send less.",
    )
