"""Triton killed, held and replaced under load: bounded refusals, no wrong answer, recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from support_gateway import Load, RealTriton, gateway, real_triton, stub_triton_repository
from xec.engines.triton import CallSettings

Status = health_pb2.HealthCheckResponse
TIMEOUT = 3.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_triton_repository(tmp_path_factory.mktemp("stub"))


@pytest.fixture
def triton(repository: Path) -> Iterator[RealTriton]:
    with real_triton(repository) as triton:
        yield triton


async def test_killed_under_load(triton: RealTriton, repository: Path) -> None:
    async with gateway(triton.address, repository) as gate:
        load = Load(gate.stub, TIMEOUT)
        await load.answered(100)
        await asyncio.to_thread(triton.kill)
        await gate.until(ready=False)
        await asyncio.to_thread(triton.restart, repository)
        await gate.until(ready=True)
        await load.answered(100)
        tally = await load.end()
    assert tally.sent == tally.right + tally.refused
    assert tally.wrong == 0
    assert tally.codes.keys() == {"UNAVAILABLE"}
    assert tally.longest < TIMEOUT
    assert gate.health == [Status.SERVING, Status.NOT_SERVING, Status.SERVING]
    counts = gate.server.batcher.counts
    assert counts.accepted == tally.sent
    assert counts.computed == tally.right
    assert counts.failed == tally.refused


async def test_held_under_load(triton: RealTriton, repository: Path) -> None:
    async with gateway(triton.address, repository) as gate:
        load = Load(gate.stub, TIMEOUT)
        await load.answered(50)
        triton.hold()
        await gate.until(ready=False)
        await asyncio.sleep(0.3)
        refused = load.tally.refused
        triton.release()
        await gate.until(ready=True)
        await load.answered(50)
        tally = await load.end()
    assert refused >= 8  # each caller was told, while it was held
    assert tally.sent == tally.right + tally.refused
    assert tally.wrong == 0
    assert tally.codes.keys() == {"UNAVAILABLE"}
    assert tally.longest < TIMEOUT
    assert gate.health == [Status.SERVING, Status.NOT_SERVING, Status.SERVING]


async def test_a_call_that_finds_it_held_is_unavailable_within_its_deadline(
    triton: RealTriton, repository: Path
) -> None:
    """Also where the deadline comes long before the gateway has made sure."""
    async with gateway(triton.address, repository, calls=CallSettings(patience=20)) as gate:
        load = Load(gate.stub, timeout=2.5)
        await load.answered(20)
        triton.hold()
        while load.tally.refused < 8:
            await asyncio.sleep(0.02)
        triton.release()
        await load.answered(20)
        tally = await load.end()
    assert gate.health == [Status.SERVING]
    assert tally.sent == tally.right + tally.refused
    assert tally.codes.keys() == {"UNAVAILABLE"}


async def test_replaced_by_another_model(
    triton: RealTriton, repository: Path, tmp_path: Path
) -> None:
    other = stub_triton_repository(tmp_path, {"model_version": "stub-2"})
    async with gateway(triton.address, repository) as gate:
        load = Load(gate.stub, TIMEOUT)
        await load.answered(20)
        await asyncio.to_thread(triton.kill)
        await asyncio.to_thread(triton.restart, other)
        while "runs another reconstruct than our repository holds" not in gate.engine.reason:
            await asyncio.sleep(0.02)
        right = load.tally.right
        await asyncio.sleep(0.3)
        assert load.tally.right == right  # the other one is never asked
        assert not gate.engine.is_ready
        await asyncio.to_thread(triton.kill)
        await asyncio.to_thread(triton.restart, repository)
        await gate.until(ready=True)
        await load.answered(20)
        tally = await load.end()
    assert tally.sent == tally.right + tally.refused
    assert gate.health == [Status.SERVING, Status.NOT_SERVING, Status.SERVING]


async def test_the_fall_back_answers_in_its_place_and_says_so(
    triton: RealTriton, repository: Path
) -> None:
    async with gateway(triton.address, repository, fallback=True) as gate:
        load = Load(gate.stub, TIMEOUT)
        await load.answered(50)
        before = dict(load.tally.engines)
        await asyncio.to_thread(triton.kill)
        while load.tally.engines.get("onnx", 0) < 50:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(triton.restart, repository)
        while not gate.engine.is_ready:
            await asyncio.sleep(0.01)
        by_triton = load.tally.engines["triton"]
        await load.answered(50)
        tally = await load.end()
    assert before.keys() == {"triton"}
    assert tally.engines["triton"] > by_triton
    assert tally.sent == tally.right  # nobody noticed
    assert gate.health == [Status.SERVING]


async def test_the_fall_back_answers_while_triton_is_held(
    triton: RealTriton, repository: Path
) -> None:
    async with gateway(triton.address, repository, fallback=True) as gate:
        load = Load(gate.stub, TIMEOUT)
        await load.answered(20)
        triton.hold()
        while load.tally.engines.get("onnx", 0) < 20:
            await asyncio.sleep(0.01)
        triton.release()
        tally = await load.end()
    assert tally.sent == tally.right
