"""The outermost layer of every unary call: bytes in, an answer or a rich status out.

gRPC's own behaviour would turn unparseable bytes into INTERNAL and any exception into UNKNOWN,
with the exception's text; both codes are kept for defects of the server.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from xec_server.refusal import Reason, Refusal, refusal_of

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


def _guarded(method: str, handler: Handler) -> Handler:
    answer = cast("Callable[[Any, Context], Awaitable[Any]]", handler.unary_unary)
    parse = cast("Callable[[bytes], Any]", handler.request_deserializer)

    async def call(content: bytes, context: Context) -> Any:
        try:
            return await answer(_request(content, parse), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None or refusal.reason is Reason.ENGINE_FAILED:
                log.exception("%s failed", method)
            defect = Refusal(Reason.DEFECT, "The server failed on this call: see its log.")
            await _abort(context, refusal or defect)

    return grpc.unary_unary_rpc_method_handler(call, None, handler.response_serializer)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Puts the guard around every unary method; streams pass as they are."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The guarded handler of a call; None where there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        return _guarded(handler_call_details.method, handler)
