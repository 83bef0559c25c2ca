"""The outermost layer of every call: bytes in, answers or a rich status out.

gRPC's own behaviour would turn unparseable bytes into INTERNAL and any exception into UNKNOWN,
with the exception's text; both codes are kept for defects of the server.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from xec_server.refusal import Reason, Refusal, refusal_of

_OURS: Final = "/xec.v1."  # the streams of reflection end in ways of their own

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


async def _abort(context: Context, refusal: Refusal) -> None:
    status = rpc_status.to_status(refusal.status())
    await context.abort(status.code, status.details, status.trailing_metadata)


def _request(content: bytes, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(content)
    except DecodeError as error:
        raise Refusal(
            Reason.UNPARSEABLE_REQUEST,
            "The request is not a message of this method: use the schema xec/v1.",
        ) from error


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


def _guarded(method: str, handler: Handler) -> Handler:
    answer = cast("Callable[[Any, Context], Awaitable[Any]]", handler.unary_unary)
    parse = cast("Callable[[bytes], Any]", handler.request_deserializer)

    async def call(content: bytes, context: Context) -> Any:
        try:
            return await answer(_request(content, parse), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, explained(error, method))

    return grpc.unary_unary_rpc_method_handler(call, None, handler.response_serializer)


def _guarded_stream(method: str, handler: Handler) -> Handler:
    answer = cast("Callable[[AsyncIterator[Any], Context], Awaitable[None]]", handler.stream_stream)
    parse = cast("Callable[[bytes], Any]", handler.request_deserializer)

    async def requests(contents: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for content in contents:
            yield _request(content, parse)

    async def call(contents: AsyncIterator[bytes], context: Context) -> None:
        try:
            await answer(requests(contents), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, explained(error, method))

    return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Puts the guard around every unary method and our stream; others pass as they are."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The guarded handler of a call; None where there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        if handler.unary_unary is not None:
            return _guarded(method, handler)
        if handler.stream_stream is not None and method.startswith(_OURS):
            return _guarded_stream(method, handler)
        return handler
