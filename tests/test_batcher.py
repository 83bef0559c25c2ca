"""The batcher makes batches by size and delay; an engine's failure reaches its own events only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from support_batcher import FakeClock, Gate, answers, make, settle, submit, values
from xec.errors import EngineError, UsageError
from xec_server.queueing.batcher import BatchPolicy


async def test_an_idle_engine_starts_at_once_without_delay() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = make(gate, clock, size=4, delay=0)
    task = submit(batcher, 1)
    await gate.has_started()
    gate.passes.release()
    assert values(await task) == ["answer 1"]
    assert gate.batches == [[1]]
    assert clock.now == 0


async def test_events_collect_while_the_engine_is_busy() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=4, delay=0, workers=1)
    tasks = [submit(batcher, 0)]
    await gate.has_started()
    tasks += [submit(batcher, item) for item in range(1, 7)]
    await settle()
    gate.passes.release(3)
    assert [values(await task) for task in tasks] == [[f"answer {item}"] for item in range(7)]
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_the_delay_is_waited_for_and_a_full_batch_is_not() -> None:
    gate, clock = Gate(open_=True), FakeClock()
    batcher = make(gate, clock, size=3, delay=0.010)
    first = submit(batcher, 1)
    await clock.advance(0.004)
    second = submit(batcher, 2)
    await clock.advance(0.0059)
    assert gate.batches == []
    await clock.advance(0.0002)  # counted from the oldest event
    assert values(await first) + values(await second) == ["answer 1", "answer 2"]
    assert gate.batches == [[1, 2]]
    full = submit(batcher, 3, 4, 5)
    assert values(await full) == ["answer 3", "answer 4", "answer 5"]
    assert gate.batches[1:] == [[3, 4, 5]]


async def test_workers_run_side_by_side_and_no_more_of_them() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=2, workers=2)
    task = submit(batcher, *range(6))
    await gate.has_started()
    await gate.has_started()
    await settle()
    assert len(gate.batches) == 2
    gate.passes.release(3)
    assert values(await task) == answers(range(6))


async def test_groups_are_split_and_merged_and_answered_in_order() -> None:
    gate = Gate()
    batcher = make(gate, FakeClock(), size=4)
    tasks = [submit(batcher, 0), submit(batcher, *range(1, 7)), submit(batcher, 7, 8)]
    await gate.has_started()
    gate.passes.release(9)
    for task, items in zip(tasks, [[0], range(1, 7), [7, 8]], strict=True):
        assert values(await task) == answers(items)
    assert [len(batch) for batch in gate.batches] == [1, 4, 4]


async def test_nothing_to_do_is_done() -> None:
    gate = Gate()
    assert await make(gate).submit([]) == []
    assert gate.batches == []


async def test_timings_say_how_long_and_with_how_many() -> None:
    gate, clock = Gate(), FakeClock()
    batcher = make(gate, clock, size=2, delay=0)
    first = submit(batcher, 0)
    await gate.has_started()
    second = submit(batcher, 1, 2)
    await clock.advance(0.25)
    gate.passes.release()
    assert (await first)[0].compute_seconds == pytest.approx(0.25)
    await gate.has_started()
    await clock.advance(0.5)
    gate.passes.release()
    one = (await second)[0]
    assert (one.queue_seconds, one.compute_seconds, one.batch_size) == (
        pytest.approx(0.25),
        pytest.approx(0.5),
        2,
    )


async def test_a_failing_call_fails_its_own_events_only() -> None:
    def engine(items: Sequence[int]) -> list[str | Exception]:
        if 13 in items:
            raise EngineError("boom")
        return answers(items)  # type: ignore[return-value]

    batcher = make(engine, FakeClock(), size=1, workers=2)
    tasks = [submit(batcher, item) for item in range(20)]
    for item, task in enumerate(tasks):
        if item == 13:
            with pytest.raises(EngineError, match="boom"):
                await task
        else:
            assert values(await task) == [f"answer {item}"]
    assert (batcher.counts.failed, batcher.counts.computed) == (1, 19)


async def test_an_exception_as_an_answer_fails_one_event() -> None:
    def engine(items: Sequence[int]) -> list[str | Exception]:
        return [ArithmeticError("nan") if item == 1 else str(item) for item in items]

    batcher = make(engine, FakeClock(), size=3)
    tasks = [submit(batcher, item) for item in range(3)]
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks] == [
        type(None),
        ArithmeticError,
        type(None),
    ]


async def test_a_wrong_number_of_answers_is_noticed() -> None:
    batcher = make(lambda items: ["one too many"] * (len(items) + 1), FakeClock())
    with pytest.raises(RuntimeError, match="2 answers to 1 items"):
        await batcher.submit([1])


@pytest.mark.parametrize("bad", [{"size": 0}, {"queue": 0}, {"workers": 0}, {"delay": -1}])
def test_impossible_policies(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        BatchPolicy(**bad)  # type: ignore[arg-type]
