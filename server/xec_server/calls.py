"""One call as the layers around its method see it, and the gates that it must pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from xec_server.refusal import Reason

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
    """

    method: str
    context: Context
    caller: str
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: Reason | None = None


Gate: TypeAlias = Callable[[Call], AbstractContextManager[object]]
"""Entered before a request is decoded and left when the call has ended; raises a Refusal where the
call is not to go on, and may say by which name the caller goes."""

_CURRENT: ContextVar[Call] = ContextVar("xec_call")


def set_current(call: Call) -> None:
    """Let what runs from now on in this task, and in those that it starts, belong to `call`."""
    _CURRENT.set(call)


def current_caller(context: Context) -> str:
    """Who calls; the connection where no gate stood before."""
    call = _CURRENT.get(None)
    return context.peer() if call is None else call.caller
