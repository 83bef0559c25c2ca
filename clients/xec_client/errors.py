"""What can go wrong with a server, by what the caller can do about it.

    xec.errors.ServiceError
    └── ClientError
        ├── Unavailable           not reachable, starting or draining: try later
        ├── Overloaded            too busy: try later, not before `retry_after`
        ├── DeadlineExceeded      no answer in time; whether it was computed is unknown
        ├── RequestRefused        the same request would be refused again
        │   ├── InvalidRequest        an event breaks the contract (see its `violations`)
        │   ├── MessageTooLarge       refused before sending
        │   ├── NotFound              the run, dead list or model version is unknown
        │   ├── OutOfRange            the run is after the last known one
        │   ├── PreconditionFailed    the server lacks what the request relies on
        │   └── AccessDenied          who asks is unknown, or may not
        └── ProtocolDefect        a defect of the server, or no server of this service

Each message is one sentence: what, which server, what to do.
"""

from __future__ import annotations

from typing import NamedTuple

from xec.errors import AccessError, ConditionsError, InvalidEvent, ServiceError, Violation


class Unanswered(NamedTuple):
    """An event of a stream that was sent and not answered: its place in the stream, its numbers."""

    place: int
    run: int
    event: int


class ClientError(ServiceError):
    """A request that was not answered.

    Attributes:
        server: the address that was asked.
        code: name of the gRPC status, such as ``UNAVAILABLE``; empty where nothing was sent.
        reason: the server's own reason in upper snake case (``google.rpc.ErrorInfo``), or empty.
        unanswered: of a stream that ended early, what was sent and not answered; whether the
            server computed it is unknown.
    """

    unanswered: tuple[Unanswered, ...] = ()

    def __init__(self, message: str, *, server: str, code: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.server = server
        self.code = code
        self.reason = reason


class Unavailable(ClientError):
    """The server cannot be reached, is starting, or is draining."""


class Overloaded(ClientError):
    """The server has no room for the request.

    Attributes:
        retry_after: seconds that the server asks to wait (``google.rpc.RetryInfo``), or None.
    """

    def __init__(
        self,
        message: str,
        *,
        server: str,
        code: str = "",
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, server=server, code=code, reason=reason)
        self.retry_after = retry_after


class DeadlineExceeded(ClientError):
    """No answer came in time; whether the server computed one is unknown."""


class RequestRefused(ClientError):
    """The server would refuse the same request again."""


class InvalidRequest(RequestRefused):
    """An event or a dead list breaks the contract.

    Attributes:
        violations: the broken rules that the server lists; its sentence says if there are more.
    """

    exit_code = InvalidEvent.exit_code

    def __init__(
        self,
        message: str,
        *,
        server: str,
        code: str = "",
        reason: str = "",
        violations: tuple[Violation, ...] = (),
    ) -> None:
        super().__init__(message, server=server, code=code, reason=reason)
        self.violations = violations


class MessageTooLarge(RequestRefused):
    """A request above the server's limit; it was not sent."""


class NotFound(RequestRefused):
    """The run, the dead list or the model version is unknown to the server."""

    exit_code = ConditionsError.exit_code


class OutOfRange(RequestRefused):
    """The run is after the last one whose conditions the server knows."""

    exit_code = ConditionsError.exit_code


class PreconditionFailed(RequestRefused):
    """The server lacks what the request relies on, such as a dead list of its own."""

    exit_code = ConditionsError.exit_code


class AccessDenied(RequestRefused, AccessError):
    """The server does not know who asks, or does not permit it."""


class ProtocolDefect(ClientError):
    """An answer that no sound server of this service gives."""
