"""A link to Triton may be closed at any moment, and gRPC's own threads never stumble over it."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from xec.engines.triton_link import Link

NOBODY = "127.0.0.1:9"
"""Nothing listens there, and nothing is asked: a channel that is not used stays idle."""
DELAYS = (0.0, 0.0005, 0.002, 0.01, 0.05, 0.2)
"""Seconds between watching and closing: before, in and after the first look of gRPC."""
LOOK = 0.25
"""Seconds, more than gRPC's 0.2 s between two looks."""


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was raised in any thread that nobody waits for."""
    seen: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(str(args.exc_value)))
    return seen


def test_a_link_that_was_closed_meanwhile_is_not_watched(raised: list[str]) -> None:
    """As when the engine is closed while its watch connects anew."""
    told: list[str] = []
    link = Link(NOBODY, 1024)
    link.close()
    link.on_lost(lambda: told.append("lost"))
    time.sleep(LOOK)
    assert raised == []
    assert told == []


@pytest.mark.parametrize("seconds", DELAYS)
def test_a_watched_link_can_be_closed_at_any_moment(raised: list[str], seconds: float) -> None:
    links = [Link(NOBODY, 1024) for _ in range(10)]
    for link in links:
        link.on_lost(lambda: None)
    time.sleep(seconds)
    closers = [threading.Thread(target=link.close) for link in links]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
    time.sleep(LOOK)
    assert raised == []


def test_control_grpc_raises_for_a_closed_channel(raised: list[str]) -> None:
    channel = grpc.insecure_channel(NOBODY)
    channel.close()
    channel.subscribe(lambda state: None)
    time.sleep(LOOK)
    assert raised == ["Cannot invoke RPC: Channel closed!"]


def test_a_link_can_be_closed_twice_and_from_two_threads() -> None:
    link = Link(NOBODY, 1024)
    link.on_lost(lambda: None)
    other = threading.Thread(target=link.close)
    other.start()
    link.close()
    other.join()
    link.close()
