"""From gRPC's status to the errors of the client."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from support_client import FakeRpcError, failing, retry_info, rich
from xec.errors import InvalidEvent, ServiceError, Violation, XecError
from xec_client import errors
from xec_client.status import Attempted, error_of, failure_of

Code = grpc.StatusCode
TRIED = Attempted("daq7:50051", 3, 2.5)
DETAILS_KEY = "grpc-status-details-bin"

EXPECTED = {
    Code.CANCELLED: errors.Unavailable,
    Code.UNKNOWN: errors.ProtocolDefect,
    Code.INVALID_ARGUMENT: errors.InvalidRequest,
    Code.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    Code.NOT_FOUND: errors.NotFound,
    Code.ALREADY_EXISTS: errors.ProtocolDefect,
    Code.PERMISSION_DENIED: errors.AccessDenied,
    Code.UNAUTHENTICATED: errors.AccessDenied,
    Code.RESOURCE_EXHAUSTED: errors.RequestRefused,
    Code.FAILED_PRECONDITION: errors.PreconditionFailed,
    Code.ABORTED: errors.ProtocolDefect,
    Code.OUT_OF_RANGE: errors.OutOfRange,
    Code.UNIMPLEMENTED: errors.ProtocolDefect,
    Code.INTERNAL: errors.ProtocolDefect,
    Code.UNAVAILABLE: errors.Unavailable,
    Code.DATA_LOSS: errors.ProtocolDefect,
}


def test_every_code_is_thought_of() -> None:
    assert EXPECTED.keys() == set(Code) - {Code.OK}


@pytest.mark.parametrize("code", EXPECTED)
def test_error_of_each_code(code: grpc.StatusCode) -> None:
    info = error_details_pb2.ErrorInfo(reason="ON_PURPOSE", domain="xec.v1")
    failure = failure_of(failing(code, "It was\nso wanted.", info))
    error = error_of(failure, TRIED)
    assert type(error) is EXPECTED[code]
    assert isinstance(error, ServiceError)
    assert error.server == "daq7:50051"
    assert error.code == code.name
    assert error.reason == "ON_PURPOSE"
    text = str(error)
    assert "daq7:50051" in text
    assert "\n" not in text
    assert text.endswith(".")
    assert not text.endswith("..")


def test_violations_arrive() -> None:
    bad = error_details_pb2.BadRequest(
        field_violations=[
            {"field": "event.npho[3]", "description": "nan in a valid sensor."},
            {"field": "event.time[9]", "description": "inf in a valid sensor."},
        ]
    )
    error = error_of(failure_of(failing(Code.INVALID_ARGUMENT, "Broken.", bad)), TRIED)
    assert isinstance(error, errors.InvalidRequest)
    assert error.violations == (
        Violation("event.npho[3]", "nan in a valid sensor."),
        Violation("event.time[9]", "inf in a valid sensor."),
    )
    assert "event.npho[3]" in str(error)
    # Whether an event is found invalid here or there, a script sees the same exit code.
    assert error.exit_code == InvalidEvent.exit_code


def test_what_the_server_says_is_said_once() -> None:
    bad = error_details_pb2.BadRequest(
        field_violations=[{"field": "event.npho[3]", "description": "nan in a valid sensor."}]
    )
    said = "The request breaks the contract at event.npho[3]: nan in a valid sensor."
    text = str(error_of(failure_of(failing(Code.INVALID_ARGUMENT, said, bad)), TRIED))
    assert text.count("event.npho[3]") == 1


@pytest.mark.parametrize(
    ("details", "end"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: refused",
            ": it cannot be connected to, refused.",
        ),
        (
            "DNS resolution failed for daq7:1: C-ares status is not ARES_SUCCESS: name not found",
            ": its host is not known, name not found.",
        ),
    ],
)
def test_the_chains_of_causes_of_grpc_end_in_the_last_one(details: str, end: str) -> None:
    text = str(error_of(failure_of(failing(Code.UNAVAILABLE, details)), TRIED))
    assert text.endswith(end)
    assert "C-ares" not in text


def test_overload_says_when_to_return() -> None:
    failure = failure_of(failing(Code.RESOURCE_EXHAUSTED, "full", retry_info(0.25)))
    error = error_of(failure, TRIED)
    assert isinstance(error, errors.Overloaded)
    assert error.retry_after == 0.25
    assert "3 attempts" in str(error)


def _with_metadata(*pairs: tuple[str, Any]) -> FakeRpcError:
    error = failing(Code.UNAVAILABLE, "away")
    error._status = type(error._status)(Code.UNAVAILABLE, "away", pairs)
    return error


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("other", "text"),),
        ((DETAILS_KEY, b"\xff\xff\xff not a message"),),
        # A status that contradicts the one of the call itself.
        tuple(rich(Code.NOT_FOUND, "another", retry_info(9)).trailing_metadata),
        # A detail whose content is not of the type that it names.
        (
            (
                DETAILS_KEY,
                status_pb2.Status(
                    code=14,
                    message="away",
                    details=[
                        AnyMessage(
                            type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff\xff"
                        )
                    ],
                ).SerializeToString(),
            ),
        ),
    ],
)
def test_useless_details_are_left_aside(metadata: Any) -> None:
    failure = failure_of(_with_metadata(*metadata))
    assert failure.code is Code.UNAVAILABLE
    assert failure.details == "away"
    assert failure.retry_after is None
    assert failure.reason == ""


def test_the_tree_at_the_top_of_the_file_is_the_tree() -> None:
    drawn = {word for line in errors.__doc__.splitlines() for word in line.split()[:3]}
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ClientError)
    }
    assert len(classes) == 12
    assert all(any(name == word for word in drawn) for name in classes)
    assert all(issubclass(kind, XecError) for kind in classes.values())
