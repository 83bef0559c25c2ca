"""A model that was replaced leaves nothing behind: memory, threads and files stay as they were."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from support_stream import until
from support_swap import NOTHING, swapping, two_models
from xec.engines.onnx import OnnxEngine
from xec_client import AsyncClient
from xec_server.app import Server

MIB = 2**20
BALLAST = 24
"""Mebibytes of a model: much more than the noise of the process."""


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_models(tmp_path_factory.mktemp("heavy"), BALLAST)


def resident() -> float:
    """Mebibytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def swap_and_ask(server: Server, client: AsyncClient, events: Any, times: int) -> None:
    for number in range(times):
        await server.models.swap(2 - number % 2)
        await client.reconstruct_batch(events(6), NOTHING)
        await until(lambda: server.models.in_use == 1)


async def growth(heavy: Path, events: Any, times: int) -> tuple[float, int, int]:
    """Models' worth of memory, threads and files that so many swaps left behind."""
    async with swapping(heavy) as server, AsyncClient(str(server.address)) as client:
        await swap_and_ask(server, client, events, 4)  # what is made once is there now
        before = resident(), threading.active_count(), open_files()
        await swap_and_ask(server, client, events, times)
        after = resident(), threading.active_count(), open_files()
    memory, threads, files = (b - a for a, b in zip(before, after, strict=True))
    return memory / BALLAST, int(threads), int(files)


async def test_nothing_is_left_behind(heavy: Path, events: Any) -> None:
    memory, threads, files = await growth(heavy, events, 20)
    assert memory < 6  # of 20; what else is in this process comes and goes
    assert threads <= 1  # of asyncio, which makes them as it needs them
    assert files == 0


async def test_the_control_engines_that_are_kept(
    heavy: Path, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[OnnxEngine] = []

    def keep(self: OnnxEngine) -> None:
        kept.append(self)

    monkeypatch.setattr(OnnxEngine, "close", keep)
    memory, _, _ = await growth(heavy, events, 8)
    assert memory > 6
    assert len(kept) == 4 + 8 + 1
