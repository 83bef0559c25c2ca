"""Why a call is refused: a status code, a reason for programs, a sentence for people.

The reason travels as `google.rpc.ErrorInfo` of domain ``xec.v1``, broken rules of the request
as `google.rpc.BadRequest`, and the time to wait for room in the queue as `google.rpc.RetryInfo`.
"""

from __future__ import annotations

import math
from enum import StrEnum, auto
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from xec.errors import (
    EngineAway,
    EngineBusy,
    EngineError,
    EngineTooLate,
    InvalidEvent,
    Violation,
)
from xec.wire.limits import MAX_VIOLATIONS
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.queueing.outcomes import (
    DeadlinePassedError,
    DrainingError,
    EngineHangsError,
    HopelessError,
    QueueFullError,
)

DOMAIN: Final = "xec.v1"
_MAX_TEXT: Final = 240  # characters of a field or description: details share 8 KiB of metadata


class Reason(StrEnum):
    """Why, for programs."""

    INVALID_EVENT = auto()
    INVALID_DEAD_LIST = auto()
    TOO_MANY_EVENTS = auto()
    TOO_MANY_FIELDS = auto()
    UNPARSEABLE_REQUEST = auto()
    REQUEST_INCOMPLETE = auto()
    TOO_MANY_CALLS = auto()
    STREAM_NOT_OPENED = auto()
    STREAM_IDLE = auto()
    STREAM_TOO_OLD = auto()
    UNKNOWN_ACKNOWLEDGEMENT = auto()
    EVENT_ID_IN_USE = auto()
    WINDOW_EXCEEDED = auto()
    TOO_MANY_STREAMS = auto()
    UNKNOWN_MODEL_VERSION = auto()
    UNKNOWN_DEAD_LIST = auto()
    NO_DEAD_LIST = auto()
    UNKNOWN_RUN = auto()
    RUN_AFTER_LAST_INTERVAL = auto()
    CONDITIONS_AWAY = auto()
    CONDITIONS_UNUSABLE = auto()
    ALL_SENSORS_DEAD = auto()
    QUEUE_FULL = auto()
    QUEUE_TOO_LONG = auto()
    DEADLINE_PASSED = auto()
    DRAINING = auto()
    ENGINE_FAILED = auto()
    ENGINE_HANGS = auto()
    ENGINE_AWAY = auto()
    ENGINE_BUSY = auto()
    RELOAD_REFUSED = auto()
    INVALID_GRACE = auto()
    UNAUTHENTICATED = auto()
    TOKEN_EXPIRED = auto()
    TOKEN_IN_CLEAR = auto()
    PERMISSION_DENIED = auto()
    DEFECT = auto()


CODES: Final = {
    Reason.INVALID_EVENT: StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_DEAD_LIST: StatusCode.INVALID_ARGUMENT,
    Reason.TOO_MANY_EVENTS: StatusCode.INVALID_ARGUMENT,
    Reason.TOO_MANY_FIELDS: StatusCode.INVALID_ARGUMENT,
    Reason.UNPARSEABLE_REQUEST: StatusCode.INVALID_ARGUMENT,
    Reason.REQUEST_INCOMPLETE: StatusCode.DEADLINE_EXCEEDED,
    Reason.TOO_MANY_CALLS: StatusCode.RESOURCE_EXHAUSTED,
    Reason.STREAM_NOT_OPENED: StatusCode.INVALID_ARGUMENT,
    Reason.STREAM_IDLE: StatusCode.UNAVAILABLE,
    Reason.STREAM_TOO_OLD: StatusCode.UNAVAILABLE,
    Reason.UNKNOWN_ACKNOWLEDGEMENT: StatusCode.INVALID_ARGUMENT,
    Reason.EVENT_ID_IN_USE: StatusCode.INVALID_ARGUMENT,
    Reason.WINDOW_EXCEEDED: StatusCode.INVALID_ARGUMENT,
    Reason.TOO_MANY_STREAMS: StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNKNOWN_MODEL_VERSION: StatusCode.NOT_FOUND,
    Reason.UNKNOWN_DEAD_LIST: StatusCode.NOT_FOUND,
    Reason.NO_DEAD_LIST: StatusCode.FAILED_PRECONDITION,
    Reason.UNKNOWN_RUN: StatusCode.NOT_FOUND,
    Reason.RUN_AFTER_LAST_INTERVAL: StatusCode.OUT_OF_RANGE,
    Reason.CONDITIONS_AWAY: StatusCode.UNAVAILABLE,
    Reason.CONDITIONS_UNUSABLE: StatusCode.FAILED_PRECONDITION,
    Reason.ALL_SENSORS_DEAD: StatusCode.FAILED_PRECONDITION,
    Reason.QUEUE_FULL: StatusCode.RESOURCE_EXHAUSTED,
    Reason.QUEUE_TOO_LONG: StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_PASSED: StatusCode.DEADLINE_EXCEEDED,
    Reason.DRAINING: StatusCode.UNAVAILABLE,
    Reason.ENGINE_FAILED: StatusCode.UNAVAILABLE,
    Reason.ENGINE_HANGS: StatusCode.UNAVAILABLE,
    Reason.ENGINE_AWAY: StatusCode.UNAVAILABLE,
    Reason.ENGINE_BUSY: StatusCode.RESOURCE_EXHAUSTED,
    Reason.RELOAD_REFUSED: StatusCode.FAILED_PRECONDITION,
    Reason.INVALID_GRACE: StatusCode.INVALID_ARGUMENT,
    Reason.UNAUTHENTICATED: StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_EXPIRED: StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_IN_CLEAR: StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: StatusCode.PERMISSION_DENIED,
    Reason.DEFECT: StatusCode.INTERNAL,
}

_TOO_LONG: Final = "What waits already takes longer than this call's deadline: try again later."

_PLAIN: Final[tuple[tuple[type[Exception], Reason, str], ...]] = (
    (
        DeadlinePassedError,
        Reason.DEADLINE_PASSED,
        "The deadline passed before the computation began: allow more time.",
    ),
    (DrainingError, Reason.DRAINING, "The server is stopping: ask another one, or later."),
    (
        EngineHangsError,
        Reason.ENGINE_HANGS,
        "The inference engine does not come back from a call: try again later, or another server.",
    ),
    (
        EngineAway,
        Reason.ENGINE_AWAY,
        "Triton, which computes for this server, is away: try again soon.",
    ),
    (
        EngineTooLate,
        Reason.DEADLINE_PASSED,
        "Triton did not answer before the deadline: allow more time, or send fewer events.",
    ),
    (EngineError, Reason.ENGINE_FAILED, "The inference engine failed on this call: try again."),
)


class Refusal(Exception):
    """A call that ends with a status other than OK.

    Args:
        reason: for programs; it determines the status code.
        message: one sentence that names the thing and the way out.
        violations: broken rules of the request; the first 16 travel.
        total: how many there are in all.
        retry_after: seconds after which to try again, where that makes sense.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        violations: tuple[Violation, ...] = (),
        total: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = violations[:MAX_VIOLATIONS]
        self.total = max(total, len(violations))
        self.retry_after = retry_after

    @property
    def sentence(self) -> str:
        """The message, and that more is wrong than is listed, where so."""
        if self.total > len(self.violations):
            listed = f"{len(self.violations)} of {self.total} violations are listed."
            return f"{self.message} {listed}"
        return self.message

    def status(self) -> status_pb2.Status:
        """The `google.rpc.Status` with its details."""
        status = status_pb2.Status(code=CODES[self.reason].value[0], message=self.sentence)
        info = error_details_pb2.ErrorInfo(reason=self.reason.upper(), domain=DOMAIN)
        status.details.add().Pack(info)
        if self.violations:
            status.details.add().Pack(_bad_request(self.violations))
        if self.retry_after is not None:
            delay = Duration()
            delay.FromMilliseconds(math.ceil(1000 * self.retry_after))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return status

    def event_error(self) -> pb.EventError:
        """The same for one event of a stream."""
        return pb.EventError(
            code=CODES[self.reason].value[0],
            reason=self.reason.upper(),
            message=self.sentence,
            violations=[
                pb.FieldViolation(
                    field=violation.field[:_MAX_TEXT], description=violation.description[:_MAX_TEXT]
                )
                for violation in self.violations
            ],
            retry_delay=self.retry_after,
        )


def _bad_request(violations: tuple[Violation, ...]) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=violation.field[:_MAX_TEXT], description=violation.description[:_MAX_TEXT]
            )
            for violation in violations
        ]
    )


def refusal_of(error: Exception) -> Refusal | None:
    """The refusal that an error stands for; None where it is a defect of the server."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InvalidEvent):
        return Refusal(Reason.INVALID_EVENT, str(error), error.violations, error.total)
    if isinstance(error, QueueFullError):
        late = isinstance(error, HopelessError)
        text = _TOO_LONG if late else "The queue of the server is full: try again later."
        reason = Reason.QUEUE_TOO_LONG if late else Reason.QUEUE_FULL
        return Refusal(reason, text, retry_after=error.retry_after)
    if isinstance(error, EngineBusy):
        text = "Triton, which computes for this server, has no room: try again later."
        return Refusal(Reason.ENGINE_BUSY, text, retry_after=error.retry_after)
    for kind, reason, text in _PLAIN:
        if isinstance(error, kind):
            return Refusal(reason, text)
    return None
