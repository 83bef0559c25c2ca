"""What the batcher does not compute: late, cancelled or surplus events, and those after its end."""

from __future__ import annotations

import asyncio

import pytest

from support_batcher import FakeClock, Gate, make, settle, submit, values
from xec_server.queueing.outcomes import DeadlinePassedError, DrainingError, QueueFullError


async def test_an_expired_event_never_reaches_the_engine() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = make(gate, clock, size=4)
    busy = submit(batcher, 0)
    await gate.has_started()
    late = submit(batcher, 1, deadline=0.1)
    patient = submit(batcher, 2, deadline=0.3)
    await clock.advance(0.2)
    gate.passes.release(2)
    with pytest.raises(DeadlinePassedError):
        await late
    assert values(await patient) == ["answer 2"]
    await busy
    assert gate.batches == [[0], [2]]
    assert batcher.counts.expired == 1
    assert batcher.counts.computed == 2


async def test_a_deadline_in_the_past_is_refused_although_the_engine_is_idle() -> None:
    gate, clock = Gate(open_=True), FakeClock()
    await clock.advance(5)
    batcher = make(gate, clock)
    with pytest.raises(DeadlinePassedError):
        await batcher.submit([1], deadline=4.9)
    assert gate.batches == []


async def test_a_cancelled_call_is_dropped_before_compute() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=4)
    busy = submit(batcher, 0)
    await gate.has_started()
    gone, stays = submit(batcher, 1, 2), submit(batcher, 3)
    await settle()
    gone.cancel()
    await settle()
    gate.passes.release(2)
    assert values(await stays) == ["answer 3"]
    await busy
    assert gate.batches == [[0], [3]]
    assert batcher.counts.abandoned == 2


async def test_a_call_that_is_cancelled_in_compute_disturbs_nobody() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=2)
    gone = submit(batcher, 0)
    await gate.has_started()
    gone.cancel()
    stays = submit(batcher, 1)
    gate.passes.release(2)
    assert values(await stays) == ["answer 1"]
    assert gone.cancelled()


async def test_the_queue_is_bounded_and_refuses_whole_groups() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=2, queue=5)
    tasks = [submit(batcher, 0, 1), submit(batcher, *range(2, 6))]
    await gate.has_started()
    with pytest.raises(QueueFullError) as caught:
        await batcher.submit([6, 7])
    assert 0 < caught.value.retry_after <= 5
    assert batcher.waiting == 4
    tasks.append(submit(batcher, 8))  # one still fits
    await settle()
    assert batcher.waiting == 5
    gate.passes.release(9)
    for task in tasks:
        await task
    assert batcher.counts.refused == 2
    assert 6 not in {item for batch in gate.batches for item in batch}


async def test_abandoned_events_make_room() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=1, queue=2)
    busy = submit(batcher, 0)
    await gate.has_started()
    gone = submit(batcher, 1, 2)
    await settle()
    gone.cancel()
    await settle()
    new = submit(batcher, 3, 4)
    await settle()
    gate.passes.release(9)
    assert values(await new) == ["answer 3", "answer 4"]
    await busy


async def test_drain_finishes_what_was_accepted_and_takes_no_more() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = make(gate, clock, size=2, delay=60, workers=1)
    tasks = [submit(batcher, 0, 1), submit(batcher, 2)]
    await gate.has_started()
    drained = asyncio.create_task(batcher.drain())
    await settle()
    with pytest.raises(DrainingError):
        await batcher.submit([9])
    assert not drained.done()
    gate.passes.release(2)
    await drained
    assert [values(await task) for task in tasks] == [["answer 0", "answer 1"], ["answer 2"]]
    assert clock.now == 0  # the delay is not waited for any more


async def test_close_refuses_what_still_waits() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=1)
    running, waiting = submit(batcher, 0), submit(batcher, 1)
    await gate.has_started()
    batcher.close()
    with pytest.raises(DrainingError):
        await waiting
    gate.passes.release()
    assert values(await running) == ["answer 0"]
