"""The outermost layer of every call: bytes in, answers or a rich status out.

gRPC's own behaviour would turn unparseable bytes into INTERNAL and any exception into UNKNOWN,
with the exception's text; both codes are kept for defects of the server. Gates stand before the
receiving: what they refuse costs nothing. For that every method is, to gRPC, one that takes a
stream of messages; on the wire there is no difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import isasyncgenfunction
from typing import Any, Final, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from xec_server.calls.call import Call, Context, Gate, current_caller, set_current
from xec_server.calls.limits import CallLimits, Receipts, within
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


@contextmanager
def _noting_the_end(call: Call) -> Iterator[None]:
    """Turns errors into refusals, and keeps how the call ended for the gates around."""
    try:
        yield
    except asyncio.CancelledError:
        call.code = grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.AbortError:  # by a service of gRPC's own
        call.code = call.context.code()
        raise
    except Exception as error:
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
        self._limits = limits or CallLimits()
        self._receipts = Receipts(self._limits)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The guarded handler of a call; None where there is no such method."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler_call_details.method, handler)

    def _guarded(self, method: str, handler: Handler) -> Handler:
        work = self._bounded(method, handler)

        async def call(contents: AsyncIterator[bytes], context: Context) -> Any:
            this = Call(method, context, context.peer())
            set_current(this)
            try:
                with self._passed(this):
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
            content = await self._received(contents, context)
            ends = context.time_remaining() is not None or handler.response_streaming
            async with within(None if ends else self._limits.longest):
                return await work(_request(content, parse, shape), context)

        return stream if handler.request_streaming else single

    async def _received(self, contents: AsyncIterator[bytes], context: Context) -> bytes:
        async with self._receipts(current_caller(context)):
            content = await anext(contents, None)
        if content is None:
            raise Refusal(Reason.UNPARSEABLE_REQUEST, "The call ended without a request.")
        return content

    @contextmanager
    def _passed(self, call: Call) -> Iterator[None]:
        with ExitStack() as stack:
            for watcher in self._watchers:
                stack.enter_context(watcher(call))
            stack.enter_context(_noting_the_end(call))
            for gate in self._gates:
                stack.enter_context(gate(call))
            yield
