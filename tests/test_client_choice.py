"""Which of several servers is asked next."""

from __future__ import annotations

from collections import Counter
from typing import Any

import grpc
import pytest

from support_client import FaultyServicer, ask_awaiting, ask_blocking, rich, serving
from xec.errors import UsageError
from xec_client import Client, RetryPolicy, errors
from xec_client.choice import Choice
from xec_client.settings import addresses_of
from xec_client.status import Failure

Code = grpc.StatusCode
AWAY = Failure(Code.UNAVAILABLE, "stopping")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_in_turns() -> None:
    choice = Choice(3)
    assert [choice.next() for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_one_that_was_away_comes_last_for_a_while() -> None:
    clock = Clock()
    choice = Choice(3, clock)
    assert choice.failed(1, AWAY)
    assert Counter(choice.next() for _ in range(40)) == {0: 20, 2: 20}
    clock.now = 5.0
    assert Counter(choice.next() for _ in range(30)) == {0: 10, 1: 10, 2: 10}


def test_where_all_were_away_the_first_of_them_comes_first() -> None:
    clock = Clock()
    choice = Choice(2, clock)
    assert choice.failed(1, AWAY)
    clock.now = 0.5
    assert not choice.failed(0, AWAY)  # nobody is left to do it at once
    assert [choice.next() for _ in range(4)] == [1, 1, 1, 1]


def test_a_refusal_says_nothing_about_the_server() -> None:
    choice = Choice(2)
    assert not choice.failed(0, Failure(Code.INVALID_ARGUMENT, "no event"))
    assert [choice.next() for _ in range(4)] == [0, 1, 0, 1]


def test_one_server_is_always_asked() -> None:
    choice = Choice(1)
    assert not choice.failed(0, AWAY)
    assert {choice.next() for _ in range(3)} == {0}


@pytest.mark.parametrize(
    ("text", "addresses"),
    [("a:1", ("a:1",)), ("a:1,b:2", ("a:1", "b:2")), ("[::1]:5, b:2", ("[::1]:5", "b:2"))],
)
def test_addresses(text: str, addresses: tuple[str, ...]) -> None:
    assert addresses_of(text) == addresses


@pytest.mark.parametrize("text", ["a:1,", ",a:1", "a:1,b", "a:1,b:0", "a:1,b:70000"])
def test_texts_that_are_no_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="no server's address"):
        Client(text)


@pytest.mark.parametrize("ask", [ask_blocking, ask_awaiting], ids=["Client", "AsyncClient"])
def test_what_one_refuses_as_draining_another_does_at_once(ask: Any, events: Any) -> None:
    """Without the wait that a second call to the same server would have."""
    first, second = FaultyServicer(), FaultyServicer()
    first.script = [rich(Code.UNAVAILABLE, "The server is stopping.")]
    retry = RetryPolicy(attempts=2, first_wait=3600, longest_wait=3600)
    with serving(first) as one, serving(second) as other:
        options = {"retry": retry, "timeout": 7000}
        answer = ask(f"{one},{other}", "reconstruct", next(iter(events(1))), (), **options)
        assert answer.event == 0
        assert (len(first.requests), len(second.requests)) == (1, 1)
        first.script = [None, rich(Code.UNAVAILABLE, "The server is stopping.")]
        with pytest.raises(errors.Unavailable, match="after 1 attempt"):  # the control
            ask(one, "reconstruct", next(iter(events(1))), (), retry=retry, timeout=5)
