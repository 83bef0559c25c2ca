"""What client and server say to each other, without the waiting.

Each conversation is a generator: it yields steps (`Send`, `Pause`), is resumed with what came of
them, and returns its result. `Client` and `AsyncClient` only perform the steps, one by blocking
and one by awaiting, so that both follow the same policy; a test performs them without a network.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import grpc
from grpc_health.v1 import health_pb2

from xec.event import Event, Reconstruction
from xec.wire.codec import reconstruction_from_proto
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client.choice import Choice
from xec_client.description import ModelDescription, description_from_proto
from xec_client.errors import ProtocolDefect, Unavailable
from xec_client.no_connection import RUNS
from xec_client.requests import Dead, batch_requests, event_request
from xec_client.settings import SERVICE, Settings, require_timeout
from xec_client.status import Attempted, error_of, failure_of

READY_CHECK_SECONDS: Final = 1.0
READY_PAUSE_SECONDS: Final = 0.1

_NOT_YET: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True, slots=True)
class Method:
    """A unary call: its full name and how its answer is read."""

    path: str
    decode: Callable[[bytes], Any]


RECONSTRUCT: Final = Method(f"/{SERVICE}/Reconstruct", pb.ReconstructResponse.FromString)
RECONSTRUCT_BATCH: Final = Method(
    f"/{SERVICE}/ReconstructBatch", pb.ReconstructBatchResponse.FromString
)
GET_MODEL: Final = Method(f"/{SERVICE}/GetModel", pb.GetModelResponse.FromString)
HEALTH_CHECK: Final = Method(
    "/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse.FromString
)
METHODS: Final = (RECONSTRUCT, RECONSTRUCT_BATCH, GET_MODEL, HEALTH_CHECK)


@dataclass(frozen=True, slots=True)
class Send:
    """Call a method once; resumed with its answer, or with the `grpc.RpcError` thrown in."""

    method: Method
    request: bytes
    timeout: float
    server: int = 0
    """Which of the client's servers."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let so many seconds pass; resumed with None."""

    seconds: float


Result = TypeVar("Result")
Steps = Generator[Send | Pause, Any, Result]


@dataclass(frozen=True, slots=True)
class Exchange:
    """The conversations with one server, or with several that answer alike.

    Args:
        settings: address, deadlines, limits, retries.
        now: a clock that never goes back, in seconds.
        random: gives numbers in [0, 1).
    """

    settings: Settings
    now: Callable[[], float] = field(default=time.monotonic)
    random: Callable[[], float] = field(default=random.random)
    choice: Choice = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choice", Choice(len(self.settings.addresses), self.now))

    def reconstruct(self, event: Event, dead: Dead, timeout: float | None) -> Steps[Reconstruction]:
        """Ask for one event."""
        request = event_request(event, dead, self.settings)
        answer = yield from self._call(RECONSTRUCT, request, timeout)
        return self._decoded([event], [answer])[0]

    def reconstruct_batch(
        self, events: Iterable[Event], dead: Dead, timeout: float | None
    ) -> Steps[list[Reconstruction]]:
        """Ask for many events, in as many requests as the limits demand."""
        answers: list[Reconstruction] = []
        for part in batch_requests(events, dead, self.settings):
            response = yield from self._call(RECONSTRUCT_BATCH, part.request, timeout)
            answers += self._decoded(part.events, response.responses)
        return answers

    def model(self, timeout: float | None) -> Steps[ModelDescription]:
        """Ask which model answers."""
        request: bytes = pb.GetModelRequest().SerializeToString()
        answer = yield from self._call(GET_MODEL, request, timeout)
        return description_from_proto(answer)

    def wait_ready(self, timeout: float) -> Steps[None]:
        """Ask for the server's health until it serves, or time is up."""
        deadline = self.now() + require_timeout(timeout)
        state = RUNS
        while (remaining := deadline - self.now()) > 0:
            allowed = min(remaining, READY_CHECK_SECONDS)
            state = yield from self._what_is_missing(allowed, state)
            if not state:
                return
            yield Pause(min(READY_PAUSE_SECONDS, max(deadline - self.now(), 0.0)))
        raise Unavailable(
            f"The server at {self.settings.server} was not ready within {timeout:g} s, {state}.",
            server=self.settings.server,
            code=grpc.StatusCode.UNAVAILABLE.name,
        )

    def _what_is_missing(self, timeout: float, known: str) -> Steps[str]:
        """Why the server cannot be asked yet; empty when it can.

        Args:
            timeout: seconds for an answer.
            known: what the last try said, which says more than that time is up.
        """
        request: bytes = health_pb2.HealthCheckRequest(service=SERVICE).SerializeToString()
        server = self.choice.next()
        try:
            answer = yield Send(HEALTH_CHECK, request, timeout, server)
        except grpc.RpcError as error:
            failure = failure_of(error, self.settings.encrypted)
            self.choice.failed(server, failure)
            if failure.code not in _NOT_YET:
                raise error_of(failure, Attempted(self.settings.server, 1, timeout)) from error
            if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED and known != RUNS:
                return known
            return f"{failure.advice}: {failure.details}"
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return "" if serving else f"{RUNS}: it answers that it is not serving"

    def _call(self, method: Method, request: bytes, timeout: float | None) -> Steps[Any]:
        """One request with its retries, all within one deadline."""
        allowed = require_timeout(self.settings.timeout if timeout is None else timeout)
        deadline = self.now() + allowed
        remaining, attempt = allowed, 1
        while True:
            server = self.choice.next()
            try:
                answer = yield Send(method, request, remaining, server)
            except grpc.RpcError as error:
                failure = failure_of(error, self.settings.encrypted)
                at_once = self.choice.failed(server, failure)
                left = deadline - self.now()
                wait = self.settings.retry.wait_before_next(failure, attempt, left, self.random)
                if wait is None:
                    tried = Attempted(self.settings.server, attempt, allowed)
                    raise error_of(failure, tried) from error
            else:
                return answer
            yield Pause(0.0 if at_once else wait)
            attempt += 1
            # A pause may last longer than asked for; gRPC takes 0 as a deadline that has passed.
            remaining = max(deadline - self.now(), 0.0)

    def _decoded(
        self, events: Sequence[Event], responses: Sequence[pb.ReconstructResponse]
    ) -> list[Reconstruction]:
        """The answers, after checking that they belong to the events."""
        asked = [(event.run, event.event) for event in events]
        if asked != [(response.run, response.event) for response in responses]:
            raise ProtocolDefect(
                f"The server at {self.settings.server} answered {len(responses)} events that are "
                f"not the {len(events)} it was asked for, which is a defect to report.",
                server=self.settings.server,
            )
        return [reconstruction_from_proto(response) for response in responses]
