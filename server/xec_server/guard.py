"""The outermost layer of every call: bytes in, answers or a rich status out.

gRPC's own behaviour would turn unparseable bytes into INTERNAL and any exception into UNKNOWN,
with the exception's text; both codes are kept for defects of the server. Gates stand before the
decoding: what they refuse costs nothing.
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

from xec_server.calls import Call, Context, Gate, set_current
from xec_server.refusal import CODES, Reason, Refusal, refusal_of

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def _request(content: bytes, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(content)
    except DecodeError as error:
        raise Refusal(
            Reason.UNPARSEABLE_REQUEST,
            "The request is not a message of this method: use the schema xec/v1.",
        ) from error


async def _requests(
    contents: AsyncIterator[bytes], parse: Callable[[bytes], Any]
) -> AsyncIterator[Any]:
    async for content in contents:
        yield _request(content, parse)


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
    except grpc.aio.AbortError:
        call.code = grpc.StatusCode.UNKNOWN
        raise
    except Exception as error:
        refusal = explained(error, call.method)
        call.code, call.reason = CODES[refusal.reason], refusal.reason
        call.message = refusal.message
        raise refusal from error


Work: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

_KINDS: Final[dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""By whether requests and responses are streams: where a handler has its method, and how to make
one."""


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
        gates: entered in this order before a request is decoded, left in the other one.
    """

    def __init__(self, gates: Sequence[Gate] = (), watchers: Sequence[Gate] = ()) -> None:
        self._gates = tuple(gates)
        self._watchers = tuple(watchers)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The guarded handler of a call; None where there is no such method."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler_call_details.method, handler)

    def _guarded(self, method: str, handler: Handler) -> Handler:
        name, wrap = _KINDS[handler.request_streaming, handler.response_streaming]
        read = _requests if handler.request_streaming else _request
        parse = cast("Callable[[bytes], Any]", handler.request_deserializer)
        work = _writing(getattr(handler, name))

        async def call(content: Any, context: Context) -> Any:
            this = Call(method, context, context.peer())
            set_current(this)
            try:
                with self._passed(this):
                    return await work(read(content, parse), context)
            except Refusal as refusal:
                status = rpc_status.to_status(refusal.status())
                await context.abort(status.code, status.details, status.trailing_metadata)

        return wrap(call, None, handler.response_serializer)

    @contextmanager
    def _passed(self, call: Call) -> Iterator[None]:
        with ExitStack() as stack:
            for watcher in self._watchers:
                stack.enter_context(watcher(call))
            stack.enter_context(_noting_the_end(call))
            for gate in self._gates:
                stack.enter_context(gate(call))
            yield
