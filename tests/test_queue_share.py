"""Who is let into a full queue: a greedy client leaves room for others, and keeps what it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support_batcher import Gate, make
from test_gateway_forwarder import Gate as CallGate
from test_gateway_forwarder import make as make_forwarder
from xec.engines.priority import Priority
from xec_server.queueing.outcomes import QueueFullError
from xec_server.queueing.share import Shares

ONLINE, OFFLINE = Priority.ONLINE, Priority.OFFLINE
QUEUE = 120


def batcher() -> tuple[Any, Any]:
    gate = Gate()
    return make(gate, size=1, queue=QUEUE), gate


def forwarder() -> tuple[Any, Any]:
    gate = CallGate()
    return make_forwarder(gate, size=1, calls=1, queue=QUEUE), gate


class Clients:
    """Fill a queue whose engine stands still, by clients that want all of it."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.tasks: list[asyncio.Task[Any]] = []

    async def offers(self, client: str, count: int = 1, lane: Priority = ONLINE) -> bool:
        """Whether `count` events of the client were let in."""
        task = asyncio.create_task(
            self.queue.submit(range(count), None, lane, (client, str(len(self.tasks))))
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not task.done():
            self.tasks.append(task)
            return True
        assert isinstance(task.exception(), QueueFullError)
        assert task.exception().retry_after > 0  # type: ignore[union-attr]
        return False

    async def wants_all(self, *clients: str) -> list[int]:
        """How many each gets, asking in turns until all are refused."""
        got = dict.fromkeys(clients, 0)
        more = True
        while more:
            more = False
            for client in clients:
                if await self.offers(client):
                    got[client] += 1
                    more = True
        return list(got.values())


@pytest.fixture(params=[batcher, forwarder], ids=["batcher", "forwarder"])
async def clients(request: pytest.FixtureRequest) -> Any:
    queue, gate = request.param()
    busy = asyncio.create_task(queue.submit([0]))
    await gate.has_started()
    found = Clients(queue)
    yield found
    gate.passes.release(10**6)
    await asyncio.gather(busy, *found.tasks)
    assert not queue._room._shares._taken  # nothing is left of those that are gone
    await queue.drain()
    queue.close()


async def test_one_that_is_alone_gets_half(clients: Clients) -> None:
    assert await clients.wants_all("a") == [QUEUE // 2]


async def test_those_that_want_all_get_equal_shares_and_leave_one(clients: Clients) -> None:
    assert await clients.wants_all("a", "b") == [QUEUE // 3] * 2
    assert await clients.offers("c", QUEUE // 3)  # at once, who comes next
    assert not await clients.offers("d")


async def test_whoever_has_nothing_takes_what_there_is(clients: Clients) -> None:
    assert await clients.offers("a", QUEUE)
    assert not await clients.offers("a")
    assert not await clients.offers("b")


async def test_lanes_have_shares_of_their_own(clients: Clients) -> None:
    assert await clients.wants_all("a") == [QUEUE // 2]
    assert await clients.offers("a", QUEUE, OFFLINE)


async def test_the_control_without_shares_a_greedy_one_shuts_others_out(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    always: Callable[..., bool] = lambda *_: True  # noqa: E731
    monkeypatch.setattr(Shares, "allows", always)
    assert await clients.wants_all("a") == [QUEUE]
    assert not await clients.offers("b")
