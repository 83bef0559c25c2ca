"""Streams through the gateway to a real Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support_gateway import RealTriton, gateway, real_triton, stub_triton_repository
from support_stream import ids, opened
from xec.engines.priority import Priority
from xec.event import EventBatch
from xec.wire.v1 import reconstruction_pb2 as pb

Events = Callable[..., EventBatch]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_triton_repository(tmp_path_factory.mktemp("stub"))


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[RealTriton]:
    with real_triton(repository) as triton:
        yield triton


@pytest.mark.parametrize("lane", [Priority.ONLINE, Priority.OFFLINE])
async def test_a_stream_is_answered_by_triton_in_the_lane_that_it_asks_for(
    triton: RealTriton, repository: Path, events: Events, answers: Any, lane: Priority
) -> None:
    batch = events(40)
    lanes: set[Priority] = set()
    async with gateway(triton.address, repository) as gate:
        infer = gate.engine.infer_within

        def watched(inputs: Any, seconds: float | None, priority: Priority) -> Any:
            lanes.add(priority)
            return infer(inputs, seconds, priority)

        gate.engine.infer_within = watched  # type: ignore[method-assign, assignment]
        named = pb.LANE_ONLINE if lane is Priority.ONLINE else pb.LANE_OFFLINE
        stream = await opened(gate.stub, lane=named, window=16, acknowledges=True)
        found = []
        waiting = list(enumerate(batch))
        await stream.send(*waiting[:16])
        for number, event in waiting[16:]:
            found.append(await stream.answer())
            await stream.acknowledge(found[-1].id)
            await stream.send((number, event))
        found += await stream.end()
    assert sorted(ids(found)) == list(range(40))
    expected = answers(batch)["energy"]
    for answer in found:
        assert answer.response.provenance.engine == "triton"
        np.testing.assert_allclose(answer.response.energy.mean, expected[answer.id], rtol=1e-4)
    assert lanes == {lane}
    assert gate.server.streams.counts.most_held <= 16


async def test_triton_that_is_gone_is_told_in_band(
    triton: RealTriton, repository: Path, events: Events
) -> None:
    async with gateway(triton.address, repository) as gate:
        stream = await opened(gate.stub)
        await stream.send((0, next(iter(events(1)))))
        assert (await stream.answer()).WhichOneof("outcome") == "response"
        triton.kill()
        await stream.send((1, next(iter(events(1)))))
        answer = await stream.answer()
        assert answer.error.reason == "ENGINE_AWAY"
        assert ids(await stream.end()) == []
