"""Who is served next: online before offline, and clients by turns. By order, not by time."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support_batcher import Gate, make
from support_server import Events, request
from support_stream import another_client, held_back, marked, opened, until
from test_gateway_forwarder import Gate as CallGate
from test_gateway_forwarder import make as make_forwarder
from xec.engines.priority import Priority
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.queueing.lanes import Lanes
from xec_server.queueing.outcomes import QueueFullError

ONLINE, OFFLINE = Priority.ONLINE, Priority.OFFLINE
GREEDY = 10_000

Put = tuple[int, Priority, str, str]


def slowly(puts: list[Put]) -> list[int]:
    """What `Lanes` is to do, written down plainly: a queue of names for each level."""
    order = []
    for lane in (ONLINE, OFFLINE):
        left = [put for put in puts if put[1] is lane]
        clients = deque(dict.fromkeys(put[2] for put in left))
        calls = {c: deque(dict.fromkeys(p[3] for p in left if p[2] == c)) for c in clients}
        while clients:
            client = clients.popleft()
            call = calls[client].popleft()
            mine = [put for put in left if put[2:] == (client, call)]
            order.append(mine[0][0])
            left.remove(mine[0])
            if len(mine) > 1:
                calls[client].append(call)
            if calls[client]:
                clients.append(client)
    return order


def taken(puts: list[Put]) -> list[int]:
    lanes: Lanes[int] = Lanes()
    for item, lane, client, call in puts:
        lanes.put(item, lane, (client, call))
    assert len(lanes) == len(list(lanes)) == len(puts)
    return [lanes.take() for _ in range(len(lanes))]


puts = st.lists(
    st.tuples(st.sampled_from([ONLINE, OFFLINE]), st.sampled_from("abc"), st.sampled_from("xy")),
    max_size=40,
).map(lambda found: [(item, *put) for item, put in enumerate(found)])


@given(puts)
def test_the_order_is_that_of_the_slow_one(found: list[Put]) -> None:
    assert taken(found) == slowly(found)


def test_the_control_first_come_first_served_is_another_order() -> None:
    found = [(0, ONLINE, "a", "x"), (1, ONLINE, "a", "x"), (2, ONLINE, "b", "x")]
    assert taken(found) == [0, 2, 1] != sorted(taken(found))


@given(puts, st.integers(2, 5))
def test_what_is_dropped_is_gone_and_the_rest_keeps_its_order(found: list[Put], n: int) -> None:
    lanes: Lanes[int] = Lanes(lambda item: item + 1)
    for item, lane, client, call in found:
        lanes.put(item, lane, (client, call))
    lanes.keep(lambda item: item % n != 0)
    left = [put for put in found if put[0] % n]
    assert len(lanes) == sum(put[0] + 1 for put in left)
    for lane in Priority:
        assert lanes.waiting(lane) == sum(put[0] + 1 for put in left if put[1] is lane)
    of_call = [
        [item for item in lanes if found[item][1:] == place] for place in {p[1:] for p in found}
    ]
    assert all(items == sorted(items) for items in of_call)
    assert sorted(lanes) == [put[0] for put in left]


async def served_behind_a_greedy_one(path: tuple[str, str]) -> int:
    """How many events are computed before the third and last one of a small client."""
    gate = Gate()
    batcher = make(gate, size=1, queue=4 * GREEDY)
    greedy = asyncio.create_task(
        batcher.submit(range(GREEDY), lane=ONLINE, path=("greedy", "stream 0"))
    )
    await gate.has_started()
    small = asyncio.create_task(batcher.submit([-1, -2, -3], lane=ONLINE, path=path))
    await asyncio.sleep(0)
    gate.passes.release(10**6)
    await small
    if path[0] == "greedy":
        await greedy
    greedy.cancel()
    await asyncio.wait([greedy])
    return [items[0] for items in gate.batches].index(-3)


async def test_ten_thousand_events_delay_a_small_client_by_one_each_turn() -> None:
    # One was with the engine already; then they alternate, whoever is first.
    assert await served_behind_a_greedy_one(("small", "call 1")) <= 1 + 2 * 3


async def test_the_control_without_turns_of_its_own_it_comes_last() -> None:
    assert await served_behind_a_greedy_one(("greedy", "stream 0")) >= GREEDY


async def test_many_calls_bring_a_client_nothing() -> None:
    gate = Gate()
    batcher = make(gate, size=1, queue=1000)
    first = asyncio.create_task(batcher.submit([0]))
    await gate.has_started()
    tasks = [
        asyncio.create_task(batcher.submit([n], path=("greedy", f"stream {n}")))
        for n in range(1, 101)
    ]
    await asyncio.sleep(0)
    small = asyncio.create_task(batcher.submit([-1, -2], path=("small", "call")))
    await asyncio.sleep(0)
    gate.passes.release(10**6)
    await asyncio.gather(first, small, *tasks)
    assert [items[0] for items in gate.batches].index(-2) <= 4


@pytest.mark.parametrize("lane", [ONLINE, OFFLINE])
async def test_what_can_wait_takes_no_room_from_what_cannot(lane: Priority) -> None:
    gate = Gate()
    batcher = make(gate, size=1, queue=3)
    busy = asyncio.create_task(batcher.submit([0]))
    await gate.has_started()
    waiting = asyncio.create_task(batcher.submit([1, 2, 3], lane=OFFLINE))
    await asyncio.sleep(0)
    if lane is OFFLINE:  # the control
        with pytest.raises(QueueFullError):
            await batcher.submit([4], lane=lane)
        return gate.passes.release(9)
    more = asyncio.create_task(batcher.submit([4, 5, 6], lane=lane))
    await asyncio.sleep(0)
    gate.passes.release(9)
    await asyncio.gather(busy, waiting, more)
    assert [items[0] for items in gate.batches] == [0, 4, 5, 6, 1, 2, 3]
    return None


async def test_the_forwarder_takes_turns_and_keeps_lanes() -> None:
    gate = CallGate()
    forwarder = make_forwarder(gate, size=1, calls=1, queue=100)
    tasks = [asyncio.create_task(forwarder.submit([0]))]
    await gate.has_started()
    tasks.append(asyncio.create_task(forwarder.submit([1, 2, 3], None, OFFLINE, ("a", "x"))))
    tasks.append(asyncio.create_task(forwarder.submit([4, 5], None, OFFLINE, ("b", "x"))))
    tasks.append(asyncio.create_task(forwarder.submit([6], None, ONLINE, ("c", "x"))))
    await asyncio.sleep(0)
    gate.passes.release(100)
    await asyncio.gather(*tasks)
    assert [items[0] for items, _ in gate.calls] == [0, 6, 1, 4, 2, 5, 3]


async def test_a_small_client_among_streams(stub_repository: Path, events: Events) -> None:
    """The same over the wire: a stream of 60 events waits, then another client asks for two."""
    async with held_back(stub_repository) as (service, order), another_client(service) as other:
        greedy = await opened(service.stub)
        await greedy.send(*enumerate(marked(events(60), 100)))
        await until(lambda: service.server.batcher.waiting == 59)
        small = await opened(other)
        await small.send(*enumerate(marked(events(2), 900)))
        await until(lambda: service.server.batcher.waiting == 61)
        service.engine.passes.release(10**6)
        await asyncio.gather(greedy.end(), small.end())
        assert order.served.index(901) <= 1 + 2 * 2
        assert sorted(order.served) == [*range(100, 160), 900, 901]


@pytest.mark.parametrize("offline", [True, False])
async def test_online_goes_before_offline(
    stub_repository: Path, events: Events, offline: bool
) -> None:
    """With both in one lane, which is the control, they alternate."""
    async with held_back(stub_repository) as (service, order), another_client(service) as other:
        lane = pb.LANE_OFFLINE if offline else pb.LANE_ONLINE
        first = await opened(service.stub, lane=lane)
        await first.send(*enumerate(marked(events(30), 100)))
        await until(lambda: service.server.batcher.waiting == 29)
        urgent = await opened(other, lane=pb.LANE_ONLINE)
        await urgent.send(*enumerate(marked(events(10), 900)))
        await until(lambda: service.server.batcher.waiting == 39)
        service.engine.passes.release(10**6)
        await asyncio.gather(first.end(), urgent.end())
        in_a_row = order.served[1:11] == list(range(900, 910))
        assert in_a_row == offline
        assert len(order.served) == 40


async def test_single_events_are_online_and_batches_are_not(
    stub_repository: Path, events: Events
) -> None:
    async with held_back(stub_repository) as (service, order):
        stub = service.stub
        one, *many = marked(events(6), 100)
        busy = asyncio.ensure_future(stub.Reconstruct(request(one)))
        await until(lambda: service.engine.rows == 1)
        messages = [request(event).event for event in many]
        batch = asyncio.ensure_future(
            stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages))
        )
        await until(lambda: service.server.batcher.waiting == 5)
        (last,) = marked(events(1), 900)
        single = asyncio.ensure_future(stub.Reconstruct(request(last)))
        await until(lambda: service.server.batcher.waiting == 6)
        service.engine.passes.release(10**6)
        await asyncio.gather(busy, batch, single)
        assert order.served == [100, 900, 101, 102, 103, 104, 105]
