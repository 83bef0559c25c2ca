"""A server that answers for long holds no more than after its first minutes."""

from __future__ import annotations

import logging
import statistics
import time
from collections import Counter
from pathlib import Path

import pytest

import support_sizes as sizes
from support_soak import KEEPS, Held, Traffic, at_rest, server

log = logging.getLogger(__name__)

PARTS = 8


async def soaked(
    repository: Path, folder: Path, warm: int, calls: int, first: str = ""
) -> tuple[list[Held], Counter[str]]:
    """What the server holds after each eighth of `calls`, which `warm` others went before."""
    async with server(repository, folder, first) as (address, process, lines):
        traffic = Traffic(address, seed=1)
        try:
            await traffic.warm(warm)
            traffic.tally.clear()
            held = []
            log.info("after the first %d calls: %s", warm, await at_rest(process.pid))
            for part in range(PARTS):
                start = time.monotonic()
                await traffic.run(calls // PARTS)
                rate = calls // PARTS / (time.monotonic() - start)
                held.append(await at_rest(process.pid))
                log.info("%d of %d, %.0f calls/s: %s", part + 1, PARTS, rate, held[-1])
            log.info("%s", dict(traffic.tally))
            assert process.poll() is None, list(lines)
        finally:
            await traffic.close()
    return held, traffic.tally


def grown(held: list[Held]) -> float:
    """By which share the resident memory has grown from the first half to the second.

    Medians, since the memory of a process breathes by a per cent or two: what is freed stays with
    the allocator for a while.
    """
    first, second = (
        statistics.median(one.resident for one in half)
        for half in (held[: PARTS // 2], held[PARTS // 2 :])
    )
    return second / first - 1


def check_tally(tally: Counter[str], calls: int) -> None:
    """Every kind of end was there, and no other."""
    streams = tally.pop("answers of streams")
    assert streams > 0
    assert tally.total() == calls
    codes = {name.rpartition(" ")[2] for name in tally}
    assert codes <= {
        "OK",
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OUT_OF_RANGE",
        "RESOURCE_EXHAUSTED",
    }, tally
    assert len(codes) >= 6, tally
    for kind in ("single", "another_list", "batch", "model", "stream", "connection", "watch"):
        assert {name for name in tally if name.startswith(f"{kind} ")} == {f"{kind} OK"}, tally


async def test_some_calls_of_each_kind(stub_repository: Path, tmp_path: Path) -> None:
    held, tally = await soaked(stub_repository, tmp_path, 1000, 1600)
    check_tally(tally, 1600)
    assert held[-1].descriptors <= held[0].descriptors + 4, held  # its pools are still filling
    assert grown(held) < 0.2, held


@pytest.mark.faults
async def test_the_control_a_server_that_keeps_requests_is_caught(
    stub_repository: Path, tmp_path: Path
) -> None:
    held, tally = await soaked(stub_repository, tmp_path, 500, 3200, KEEPS)
    check_tally(tally, 3200)  # it keeps them, and answers as ever
    assert grown(held) > 0.2, held


@pytest.mark.faults
async def test_very_many_calls_leave_nothing_behind(stub_repository: Path, tmp_path: Path) -> None:
    """The more calls, the smaller what each may leave: 3 kB, or 50 bytes in the long run."""
    warm, calls = sizes.of(8_000, 60_000), sizes.of(16_000, 200_000)
    held, tally = await soaked(stub_repository, tmp_path, warm, calls)
    check_tally(tally, calls)
    more, growth = (0, 0.02) if sizes.IS_FULL else (4, 0.1)  # its pools may still be filling
    assert held[-1].descriptors <= held[0].descriptors + more, held
    assert held[-1].threads <= held[0].threads + more, held
    log.info("grown by %.2f %%", 100 * grown(held))
    assert grown(held) < growth, held
