"""From the status of a failed call to the error that the caller sees.

Details travel as `google.rpc` messages in the trailing metadata `grpc-status-details-bin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from xec.errors import Violation
from xec_client.errors import (
    AccessDenied,
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    OutOfRange,
    Overloaded,
    PreconditionFailed,
    ProtocolDefect,
    RequestRefused,
    Unavailable,
)
from xec_client.no_connection import RUNS, no_connection

Code = grpc.StatusCode

CLOSED_HERE: Final = "Channel closed!"
"""What gRPC says of a call whose own client was closed meanwhile."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call failed, decoded.

    Args:
        code: the status.
        details: the server's or gRPC's own sentence.
        reason: of `ErrorInfo`, or empty.
        retry_after: seconds of `RetryInfo`, or None.
        violations: of `BadRequest`.
        advice: what to check where the server is not available.
    """

    code: grpc.StatusCode
    details: str
    reason: str = ""
    retry_after: float | None = None
    violations: tuple[Violation, ...] = ()
    advice: str = RUNS


def _unpacked(details: Any, kind: Any) -> Any | None:
    """The first message of type `kind` among the details, or None."""
    for detail in details:
        if detail.Is(kind.DESCRIPTOR):
            message = kind()
            detail.Unpack(message)
            return message
    return None


def _rich_details(error: Any) -> Any:
    """The details of a call's status; none where they are missing or contradict the status."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return ()
    return () if status is None else status.details


def failure_of(error: Any, encrypted: bool = False) -> Failure:
    """Decode the error of a call of `grpc` or `grpc.aio`.

    Args:
        error: of the call.
        encrypted: whether it was made through TLS.
    """
    details = _rich_details(error)
    try:
        info = _unpacked(details, error_details_pb2.ErrorInfo)
        retry = _unpacked(details, error_details_pb2.RetryInfo)
        bad = _unpacked(details, error_details_pb2.BadRequest)
    except DecodeError:
        info = retry = bad = None
    fields = () if bad is None else bad.field_violations
    text = _one_line(error.details() or "")
    unconnected = no_connection(text, encrypted)
    return Failure(
        code=error.code(),
        details=text if unconnected is None else unconnected.cause,
        reason="" if info is None else info.reason,
        retry_after=None if retry is None else retry.retry_delay.ToTimedelta().total_seconds(),
        violations=tuple(Violation(field.field, field.description) for field in fields),
        advice=RUNS if unconnected is None else unconnected.advice,
    )


def _one_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")


@dataclass(frozen=True, slots=True)
class Attempted:
    """What was tried: the server, how often, and the seconds that were given in all."""

    server: str
    attempts: int
    timeout: float

    @property
    def count(self) -> str:
        """The number of attempts in words."""
        return "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"


_SENTENCES: Final[dict[grpc.StatusCode, tuple[type[ClientError], str]]] = {
    Code.UNAVAILABLE: (
        Unavailable,
        "The server at {server} is not available after {count}, {advice}: {details}.",
    ),
    Code.CANCELLED: (
        Unavailable,
        "The server at {server} cut the call off after {count}, ask again later: {details}.",
    ),
    Code.DEADLINE_EXCEEDED: (
        DeadlineExceeded,
        (
            "The server at {server} did not answer within {timeout:g} s; allow more time or send "
            "fewer events at once."
        ),
    ),
    Code.NOT_FOUND: (NotFound, "The server at {server} does not know it: {details}."),
    Code.OUT_OF_RANGE: (OutOfRange, "The server at {server} does not go so far: {details}."),
    Code.FAILED_PRECONDITION: (
        PreconditionFailed,
        "The server at {server} cannot follow the request: {details}.",
    ),
    Code.UNAUTHENTICATED: (AccessDenied, "The server at {server} asks who you are: {details}."),
    Code.PERMISSION_DENIED: (AccessDenied, "The server at {server} does not permit it: {details}."),
    Code.UNIMPLEMENTED: (
        ProtocolDefect,
        (
            "What listens at {server} does not offer this call of xec.v1, check the address and "
            "the version of the server."
        ),
    ),
}
_DEFECT: Final = (
    ProtocolDefect,
    "The server at {server} failed with {code}, a defect to report with its log: {details}.",
)


def _invalid_request(failure: Failure, server: str) -> InvalidRequest:
    unsaid = [v for v in failure.violations[:1] if v.field not in failure.details]
    first = "".join(f" ({v.field}: {_one_line(v.description)})" for v in unsaid)
    return InvalidRequest(
        f"The server at {server} refused the request as invalid, correct it: "
        f"{failure.details}{first}.",
        server=server,
        code=failure.code.name,
        reason=failure.reason,
        violations=failure.violations,
    )


def _exhausted(failure: Failure, tried: Attempted) -> ClientError:
    common = {"server": tried.server, "code": failure.code.name, "reason": failure.reason}
    if failure.retry_after is None:
        return RequestRefused(
            f"The server at {tried.server} has no resources for this request, make it smaller: "
            f"{failure.details}.",
            **common,
        )
    return Overloaded(
        f"The server at {tried.server} is still overloaded after {tried.count}, "
        f"send fewer requests at a time: {failure.details}.",
        retry_after=failure.retry_after,
        **common,
    )


def error_of(failure: Failure, tried: Attempted) -> ClientError:
    """The error that a caller sees."""
    if failure.code is Code.INVALID_ARGUMENT:
        return _invalid_request(failure, tried.server)
    if failure.code is Code.RESOURCE_EXHAUSTED:
        return _exhausted(failure, tried)
    kind, sentence = _SENTENCES.get(failure.code, _DEFECT)
    text = sentence.format(
        server=tried.server,
        count=tried.count,
        timeout=tried.timeout,
        code=failure.code.name,
        advice=failure.advice,
        details=failure.details or "no reason given",
    )
    return kind(text, server=tried.server, code=failure.code.name, reason=failure.reason)
