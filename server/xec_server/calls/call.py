"""One call as the layers around its method see it, and the gates that it must pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.refusal import Reason, Refusal

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(slots=True, eq=False)
class Call:
    """A call in progress.

    Args:
        method: its full name, ``/xec.v1.Reconstruction/Reconstruct``.
        context: of gRPC.
        caller: who calls: the connection, until a gate knows by which name.
        code: how it ended, once it has.
        reason: why, where it was refused.
        message: the same for people.
        run: of its first event, once that is known.
        event: the number of that.
        events: in it, where it brings all of them at once.
        listeners: hear of each event that is refused while the call goes on.
    """

    method: str
    context: Context
    caller: str
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: Reason | None = None
    message: str = ""
    run: int | None = None
    event: int | None = None
    events: int = 0
    listeners: list[Listener] = field(default_factory=list)

    def refuse_event(self, refusal: Refusal, run: int, event: int) -> None:
        """Tell of an event of a stream that is refused."""
        for listener in self.listeners:
            listener(self, refusal, run, event)


Listener: TypeAlias = Callable[[Call, Refusal, int, int], None]
"""Hears of a call, why an event of it is refused, and the event's run and number."""

Gate: TypeAlias = Callable[[Call], AbstractContextManager[object] | None]
"""Passed before a request is received; raises a Refusal where the call is not to go on, and may say
by which name the caller goes. What it returns is entered, and left when the call has ended."""


class AtTheEnd:
    """What a gate has to do when the call ends.

    Args:
        do: that.
    """

    __slots__ = ("_do",)

    def __init__(self, do: Callable[[], object]) -> None:
        self._do = do

    def __enter__(self) -> None:
        """Nothing before."""

    def __exit__(self, *_: object) -> None:
        """Do it."""
        self._do()


_CURRENT: ContextVar[Call] = ContextVar("xec_call")


def set_current(call: Call) -> None:
    """Let what runs from now on in this task, and in those that it starts, belong to `call`."""
    _CURRENT.set(call)


def current_caller(context: Context) -> str:
    """Who calls; the connection where no gate stood before."""
    call = _CURRENT.get(None)
    return context.peer() if call is None else call.caller


def current_call() -> Call | None:
    """The call that this task belongs to, if it belongs to one."""
    return _CURRENT.get(None)


def note_events(messages: Sequence[pb.Event]) -> None:
    """Keep for the log which events the current call is about."""
    call = _CURRENT.get(None)
    if call is not None and messages:
        call.run, call.event, call.events = messages[0].run, messages[0].event, len(messages)
