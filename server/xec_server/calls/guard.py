"""The outermost layer of every call: bytes in, answers or a rich status out.

gRPC's own behaviour would turn unparseable bytes into INTERNAL and any exception into UNKNOWN,
with the exception's text; both codes are kept for defects of the server. Gates stand before the
receiving: what they refuse costs nothing. For that every method is, to gRPC, one that takes a
stream of messages; on the wire there is no difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from inspect import isasyncgenfunction
from typing import Any, Final, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from xec_server.calls.call import Call, Context, Gate, current_caller, set_current
from xec_server.calls.limits import CallLimits, Receipts, longest_call
from xec_server.calls.message_shape import Shape, check_shape, shape_of
from xec_server.calls.refusal import CODES, Reason, Refusal, refusal_of

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def _request(content: bytes, parse: Callable[[bytes], Any], shape: Shape) -> Any:
    check_shape(content, shape)
    try:
        return parse(content)
    except DecodeError as error:
        raise Refusal(
            Reason.UNPARSEABLE_REQUEST,
            "The request is not a message of this method: use the schema xec/v1.",
        ) from error


async def _requests(
    contents: AsyncIterator[bytes], parse: Callable[[bytes], Any], shape: Shape
) -> AsyncIterator[Any]:
    async for content in contents:
        yield _request(content, parse, shape)


def explained(error: Exception, what: str) -> Refusal:
    """The refusal that an error stands for; a defect keeps its traceback to the log.

    Args:
        error: that ended it.
        what: failed, for the log.
    """
    refusal = refusal_of(error)
    if refusal is None or refusal.reason is Reason.ENGINE_FAILED:
        log.error("%s failed", what, exc_info=error)
    return refusal or Refusal(Reason.DEFECT, "The server failed on this call: see its log.")


class _NotingTheEnd:
    """Turns errors into refusals, and keeps how the call ended for the gates around."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        """Nothing has ended yet."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """What went wrong, if anything did."""
        call = self._call
        if isinstance(error, asyncio.CancelledError):
            call.code = grpc.StatusCode.CANCELLED
        elif isinstance(error, grpc.aio.AbortError):  # by a service of gRPC's own
            call.code = call.context.code()
        elif isinstance(error, Exception):
            refusal = explained(error, call.method)
            call.code, call.reason = CODES[refusal.reason], refusal.reason
            call.message = refusal.message
            raise refusal from error


Work: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

_NAMES: Final = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
"""Where a handler has its method, by whether requests and responses are streams."""


def _writing(answer: Callable[..., Any]) -> Work:
    """A method that yields its answers, as one that writes them."""
    if not isasyncgenfunction(answer):
        return cast("Work", answer)

    async def write(request: Any, context: Context) -> None:
        async for response in answer(request, context):
            await context.write(response)

    return write


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Stands around every method.

    Args:
        watchers: entered first and left last: they see how each call ended.
        gates: entered in this order before a request is received, left in the other one.
        limits: how long that and the call may take.
    """

    def __init__(
        self,
        gates: Sequence[Gate] = (),
        watchers: Sequence[Gate] = (),
        limits: CallLimits | None = None,
    ) -> None:
        self._gates = tuple(gates)
        self._watchers = tuple(watchers)
        limits = limits or CallLimits()
        self._receipts = Receipts(limits)
        self._in_time = longest_call(limits)
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The guarded handler of a call; None where there is no such method."""
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = self._guarded(method, handler)
        return self._handlers[method]

    def _guarded(self, method: str, handler: Handler) -> Handler:
        work = self._bounded(method, handler)

        async def call(contents: AsyncIterator[bytes], context: Context) -> Any:
            this = Call(method, context, context.peer())
            set_current(this)
            try:
                with ExitStack() as gates:
                    self._pass(this, gates)
                    return await work(contents, context)
            except Refusal as refusal:
                status = rpc_status.to_status(refusal.status())
                await context.abort(status.code, status.details, status.trailing_metadata)

        wrap: Callable[..., Handler] = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return wrap(call, None, handler.response_serializer)

    def _pass(self, call: Call, gates: ExitStack) -> None:
        """Pass all gates, which are left when `gates` is."""
        for watcher in self._watchers:
            _enter(watcher(call), gates)
        gates.enter_context(_NotingTheEnd(call))
        for gate in self._gates:
            _enter(gate(call), gates)

    def _bounded(self, method: str, handler: Handler) -> Work:
        """From bytes to the answer; of a call that ends by itself, within its time."""
        work = _writing(
            getattr(handler, _NAMES[handler.request_streaming, handler.response_streaming])
        )
        parse = cast("Callable[[bytes], Any]", handler.request_deserializer)
        shape = shape_of(method)

        async def stream(contents: AsyncIterator[bytes], context: Context) -> Any:
            return await work(_requests(contents, parse, shape), context)

        async def single(contents: AsyncIterator[bytes], context: Context) -> Any:
            del contents  # to begin an iteration that is never ended costs a task to end it
            content = await self._receipts.receive(current_caller(context), context.read)
            if content is grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
                raise Refusal(Reason.UNPARSEABLE_REQUEST, "The call ended without a request.")
            request = _request(content, parse, shape)
            if handler.response_streaming or context.time_remaining() is not None:
                return await work(request, context)
            with self._in_time():
                return await work(request, context)

        return stream if handler.request_streaming else single


def _enter(gate: AbstractContextManager[object] | None, gates: ExitStack) -> None:
    if gate is not None:
        gates.enter_context(gate)
