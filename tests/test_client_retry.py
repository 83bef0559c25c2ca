"""When a call is tried again: the decision alone, then whole conversations on a clock of paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from support_client import failing, retry_info
from xec.errors import UsageError
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client.errors import ClientError, DeadlineExceeded, Overloaded, RequestRefused, Unavailable
from xec_client.exchange import Exchange, Pause, Send, Steps
from xec_client.retry import DEFAULT_RETRY, NO_RETRY, RetryPolicy
from xec_client.settings import Settings
from xec_client.status import CLOSED_HERE, Failure

Code = grpc.StatusCode
UNAVAILABLE = Failure(Code.UNAVAILABLE, "away")
PLENTY = 1e6


def middle() -> float:
    return 0.5


def test_waits_double_up_to_the_longest() -> None:
    policy = RetryPolicy(attempts=10)
    waits = [policy.wait_before_next(UNAVAILABLE, k, PLENTY, middle) for k in range(1, 10)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0])


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_only_what_may_succeed_is_repeated(code: grpc.StatusCode) -> None:
    plain = DEFAULT_RETRY.wait_before_next(Failure(code, ""), 1, PLENTY, middle)
    hinted = DEFAULT_RETRY.wait_before_next(Failure(code, "", retry_after=0.5), 1, PLENTY, middle)
    again = {Code.UNAVAILABLE, Code.CANCELLED}
    assert (plain is not None) == (code in again)
    assert (hinted is not None) == (code in again | {Code.RESOURCE_EXHAUSTED})


def test_what_was_closed_here_is_not_repeated() -> None:
    closed = Failure(Code.CANCELLED, CLOSED_HERE)
    assert DEFAULT_RETRY.wait_before_next(closed, 1, PLENTY, middle) is None


def test_the_fourth_failure_is_the_last() -> None:
    waits = [DEFAULT_RETRY.wait_before_next(UNAVAILABLE, k, PLENTY, middle) for k in (3, 4, 5)]
    assert waits[0] is not None
    assert waits[1:] == [None, None]
    assert NO_RETRY.wait_before_next(UNAVAILABLE, 1, PLENTY, middle) is None


@given(
    attempt=st.integers(1, 12),
    draw=st.floats(0, 1, exclude_max=True),
    hint=st.none() | st.floats(0, 10),
    remaining=st.floats(-1, 20),
)
def test_bounds_of_a_wait(attempt: int, draw: float, hint: float | None, remaining: float) -> None:
    policy = RetryPolicy(attempts=20)
    failure = Failure(Code.UNAVAILABLE, "", retry_after=hint)
    wait = policy.wait_before_next(failure, attempt, remaining, lambda: draw)
    nominal = min(0.1 * 2 ** (attempt - 1), 2.0)
    if wait is None:
        # Nothing but the deadline can have refused it.
        assert remaining < (hint or 0) + 1.2 * nominal + policy.shortest_attempt
        return
    assert wait >= (hint or 0)  # never before the server's wish
    assert 0.8 * nominal - 1e-9 <= wait - (hint or 0) <= 1.2 * nominal + 1e-9
    assert wait + policy.shortest_attempt <= remaining


def test_clients_that_fail_together_do_not_return_together() -> None:
    waits = {DEFAULT_RETRY.backoff(1, lambda draw=k / 100: draw) for k in range(100)}
    assert len(waits) == 100
    same = {replace(DEFAULT_RETRY, jitter=0.0).backoff(1, lambda d=k / 100: d) for k in range(100)}
    assert len(same) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"first_wait": -0.1},
        {"longest_wait": -1.0},
        {"shortest_attempt": -1.0},
        {"multiplier": 0.5},
        {"jitter": 1.5},
        {"jitter": -0.1},
    ],
)
def test_senseless_policies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RetryPolicy(**wrong)


@dataclass
class Paper:
    """Performs the steps of a conversation on its own clock.

    `outcomes` are what the calls give, an answer or an error; each takes `call_seconds`, and every
    pause lasts `oversleep` longer than asked for.
    """

    outcomes: Sequence[Any]
    call_seconds: float = 0.0
    oversleep: float = 0.0
    time: float = 1000.0
    sent: list[Send] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def exchange(self, **settings: Any) -> Exchange:
        return Exchange(Settings("paper:1", **settings), lambda: self.time, middle)

    def perform(self, steps: Steps[Any]) -> Any:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    self.time += step.seconds + self.oversleep
                    step = steps.send(None)
                    continue
                outcome = self.outcomes[min(len(self.sent), len(self.outcomes) - 1)]
                self.sent.append(step)
                self.time += min(self.call_seconds, step.timeout)
                if isinstance(outcome, grpc.RpcError):
                    step = steps.throw(outcome)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            return end.value


AWAY = failing(Code.UNAVAILABLE)
MODEL = pb.GetModelResponse(contract_version="1")


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_as_many_calls_as_failures_and_one(failures: int) -> None:
    paper = Paper([AWAY] * failures + [MODEL])
    assert paper.perform(paper.exchange().model(None)).contract_version == "1"
    assert len(paper.sent) == failures + 1
    assert paper.pauses == pytest.approx([0.1, 0.2, 0.4][:failures])


def test_four_failures_are_the_end() -> None:
    paper = Paper([AWAY])
    with pytest.raises(Unavailable, match=r"paper:1 .* 4 attempts"):
        paper.perform(paper.exchange().model(None))
    assert len(paper.sent) == 4


def test_each_attempt_gets_the_time_that_is_left() -> None:
    paper = Paper([AWAY], call_seconds=1.0)
    with pytest.raises(Unavailable):
        paper.perform(paper.exchange(timeout=10.0).model(None))
    assert [send.timeout for send in paper.sent] == pytest.approx([10.0, 8.9, 7.7, 6.3])


def test_no_attempt_starts_that_cannot_finish() -> None:
    # After 0.25 s, a pause of 0.1 s would leave 0.15 s, the next of 0.2 s nothing.
    paper = Paper([AWAY], call_seconds=0.1)
    with pytest.raises(Unavailable, match="2 attempts"):
        paper.perform(paper.exchange().model(0.35))
    assert len(paper.sent) == 2
    assert paper.time <= 1000.0 + 0.35
    # The control: with time enough the same server is asked four times.
    patient = Paper([AWAY], call_seconds=0.1)
    with pytest.raises(Unavailable):
        patient.perform(patient.exchange().model(3.5))
    assert len(patient.sent) == 4


def test_a_pause_that_overslept_leaves_no_negative_deadline() -> None:
    paper = Paper([AWAY, failing(Code.DEADLINE_EXCEEDED)], oversleep=60.0)
    with pytest.raises(DeadlineExceeded):
        paper.perform(paper.exchange().model(1.0))
    assert [send.timeout for send in paper.sent] == [1.0, 0.0]


@given(
    timeout=st.floats(0.05, 5),
    call_seconds=st.floats(0, 3),
    first=st.floats(0, 1),
    attempts=st.integers(1, 8),
)
def test_never_beyond_the_deadline(
    timeout: float, call_seconds: float, first: float, attempts: int
) -> None:
    paper = Paper([AWAY], call_seconds=call_seconds)
    policy = RetryPolicy(attempts=attempts, first_wait=first)
    with pytest.raises(Unavailable):
        paper.perform(paper.exchange(retry=policy).model(timeout))
    assert 1 <= len(paper.sent) <= attempts
    assert len(paper.pauses) == len(paper.sent) - 1
    assert paper.time - 1000.0 <= timeout + 1e-9


def test_overload_without_a_hint_is_not_repeated() -> None:
    paper = Paper([failing(Code.RESOURCE_EXHAUSTED)])
    with pytest.raises(RequestRefused):
        paper.perform(paper.exchange().model(None))
    assert len(paper.sent) == 1


def test_overload_with_a_hint_waits_at_least_so_long() -> None:
    busy = failing(Code.RESOURCE_EXHAUSTED, "full", retry_info(0.75))
    paper = Paper([busy])
    with pytest.raises(Overloaded) as raised:
        paper.perform(paper.exchange().model(None))
    assert raised.value.retry_after == pytest.approx(0.75)
    assert paper.pauses == pytest.approx([0.85, 0.95, 1.15])


def test_after_a_deadline_the_outcome_is_unknown_and_stays_so() -> None:
    paper = Paper([failing(Code.DEADLINE_EXCEEDED), MODEL])
    with pytest.raises(DeadlineExceeded, match="10 s"):
        paper.perform(paper.exchange().model(None))
    assert len(paper.sent) == 1


@pytest.mark.parametrize("timeout", [0.0, -1.0, 1e9, math.inf, math.nan])
def test_there_is_no_call_without_a_deadline(timeout: float) -> None:
    with pytest.raises(UsageError):
        Settings("paper:1", timeout=timeout)
    paper = Paper([MODEL])
    with pytest.raises(UsageError):
        paper.perform(paper.exchange().model(timeout))
    assert not paper.sent


SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
STARTING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)


def test_readiness_is_asked_for_until_it_comes() -> None:
    paper = Paper([AWAY, AWAY, failing(Code.DEADLINE_EXCEEDED), STARTING, SERVING])
    paper.perform(paper.exchange().wait_ready(5.0))
    assert len(paper.sent) == 5


@pytest.mark.parametrize("outcome", [AWAY, STARTING], ids=["away", "starting"])
@given(timeout=st.floats(0.01, 4), call_seconds=st.floats(0, 3))
def test_readiness_is_waited_for_no_longer_than_allowed(
    outcome: Any, timeout: float, call_seconds: float
) -> None:
    paper = Paper([outcome], call_seconds=call_seconds)
    with pytest.raises(Unavailable, match="not ready within"):
        paper.perform(paper.exchange().wait_ready(timeout))
    assert timeout - 1e-9 <= paper.time - 1000.0 <= timeout + 1e-9
    assert all(send.timeout <= 1.0 for send in paper.sent)


@pytest.mark.parametrize("code", [Code.UNIMPLEMENTED, Code.NOT_FOUND, Code.UNAUTHENTICATED])
def test_what_will_never_be_ready_is_not_waited_for(code: grpc.StatusCode) -> None:
    paper = Paper([failing(code)])
    with pytest.raises(ClientError) as raised:
        paper.perform(paper.exchange().wait_ready(5.0))
    assert raised.value.code == code.name
    assert len(paper.sent) == 1
