"""No event is ever answered with another's result."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence

import pytest

from xec_server.queueing.batcher import Batcher, BatchPolicy


def digest(item: bytes) -> str:
    return hashlib.sha256(item).hexdigest()


def honest(items: Sequence[bytes]) -> list[str | Exception]:
    return [digest(item) for item in items]


def swaps_the_last_two(items: Sequence[bytes]) -> list[str | Exception]:
    hashes = honest(items)
    return [*hashes[:-2], *reversed(hashes[-2:])]


async def mix_ups(
    engine: Callable[[Sequence[bytes]], list[str | Exception]], seed: int, groups: int
) -> tuple[int, Batcher[bytes, str]]:
    """Answers that are not the hash of their event, among groups of random sizes."""
    chance = random.Random(seed)
    policy = BatchPolicy(size=chance.randint(1, 9), queue=10**6, workers=3)
    batcher: Batcher[bytes, str] = Batcher(engine, policy)

    async def one_client() -> int:
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        items = [chance.randbytes(16) for _ in range(chance.randint(1, 12))]
        answered = await batcher.submit(items)
        return sum(a.value != digest(item) for a, item in zip(answered, items, strict=True))

    tasks = [asyncio.create_task(one_client()) for _ in range(groups)]
    gone = [task for task in tasks if chance.random() < 0.1]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == len(gone)
    return sum(result for result in results if isinstance(result, int)), batcher


@pytest.mark.parametrize("seed", range(4))
async def test_thousands_of_events_get_their_own_answers(seed: int) -> None:
    wrong, batcher = await mix_ups(honest, seed, groups=800)
    await batcher.drain()
    assert wrong == 0
    counts = batcher.counts
    assert counts.accepted > 4000
    assert counts.accepted == counts.computed + counts.abandoned


async def test_the_test_above_notices_an_engine_that_mixes_up() -> None:
    wrong, _ = await mix_ups(swaps_the_last_two, seed=0, groups=50)
    assert wrong > 0
