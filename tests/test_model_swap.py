"""Another model under load: no call fails, and each answer is that of the model it names."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

import support_sizes as sizes
from support_server import NOTHING_DEAD, GatedEngine, refusal, request
from support_stream import opened, until
from support_swap import SwapLoad, Verdict, swapping, two_models
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.app import Server
from xec_server.calls.refusal import Refusal
from xec_server.events import work
from xec_server.model.models import ServedModel
from xec_server.queueing.outcomes import DrainingError

Code = grpc.StatusCode
OPTIONS = [("grpc.max_receive_message_length", MAX_RESPONSE_BYTES)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2; not to be changed."""
    return two_models(tmp_path_factory.mktemp("two"))


def left(before: set[threading.Thread]) -> set[threading.Thread]:
    """Threads that came since."""
    return set(threading.enumerate()) - before


async def swapped(server: Server, times: int) -> Verdict:
    """What callers saw while the models took turns."""
    load = SwapLoad(str(server.address))
    await until(lambda: load.verdict.right.total() > 40)
    for number in range(times):
        seen = load.verdict.right.total()
        version = 2 - number % 2
        await server.models.swap(version)
        assert server.model.version == f"stub-{version}"
        await until(lambda seen=seen: load.verdict.right.total() > seen or load.verdict.failed)
    return await load.end()


async def no_call_fails(repository: Path, times: int) -> Verdict:
    before = set(threading.enumerate())
    async with swapping(repository) as server:
        verdict = await swapped(server, times)
        assert (verdict.wrong, verdict.mixed, verdict.failed) == ([], 0, [])
        assert set(verdict.right) == {"stub-1", "stub-2"}
        assert min(verdict.right.values()) > times / 2
        assert verdict.streams_of_both == 1  # one stream, from the beginning to the end
        assert server.models.swaps == times
        await until(lambda: server.models.in_use == 1)
        assert server.batcher.counts.failed == server.batcher.counts.refused == 0
    await until(lambda: not [one for one in left(before) if "xec" in one.name])
    return verdict


async def test_no_call_fails_and_each_answer_names_its_model(repository: Path) -> None:
    await no_call_fails(repository, 40)


@pytest.mark.faults
async def test_no_call_fails_in_many_swaps(repository: Path) -> None:
    swaps = sizes.of(300, 1000)
    verdict = await no_call_fails(repository, swaps)
    sys.stdout.write(f"\nswap: {swaps} swaps, no failed call, answers {dict(verdict.right)}\n")


async def test_the_control_an_engine_that_is_closed_at_once(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServedModel, "retire", lambda self: self.engine.close())
    async with swapping(repository) as server:
        verdict = await swapped(server, 20)
    assert any("failed" in text for text in verdict.failed)


async def test_the_control_provenance_that_is_looked_up_afterwards(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swapping(repository) as server:
        true = work.answer_to

        def late(event: Any, provenance: Any, *rest: Any) -> pb.ReconstructResponse:
            return true(event, server.models.current.provenance, *rest)

        monkeypatch.setattr(work, "answer_to", late)
        verdict = await swapped(server, 20)
    assert verdict.wrong
    assert not verdict.failed


class Gated:
    """Opens engines that may be held back, and keeps them."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.opened: list[GatedEngine] = []
        self.closed: list[int] = []

    def __call__(self, version: int | None) -> GatedEngine:
        settings = OnnxSettings(sessions=2)
        engine = GatedEngine(OnnxEngine(self.repository, settings, version=version))
        number, close = len(self.opened), engine.close

        def closing() -> None:
            self.closed.append(number)
            close()

        engine.close = closing  # type: ignore[method-assign]
        self.opened.append(engine)
        return engine


async def test_the_old_model_answers_what_it_accepted_and_closes_after_it(
    repository: Path, events: Any
) -> None:
    gated = Gated(repository)
    async with (
        swapping(repository, reopen=gated) as server,
        grpc.aio.insecure_channel(str(server.address), OPTIONS) as channel,
    ):
        stub = ReconstructionStub(channel)
        gated.opened[0].hold()
        first, second = events(2)
        old = asyncio.ensure_future(
            stub.Reconstruct(request(first, dead_list=NOTHING_DEAD, model_version="stub-1"))
        )
        await asyncio.to_thread(gated.opened[0].started.acquire, timeout=30)
        await server.models.swap(2)
        assert (server.models.in_use, gated.closed) == (2, [])
        new = await stub.Reconstruct(request(second, dead_list=NOTHING_DEAD))
        assert new.provenance.model_version == "stub-2"
        assert not old.done()
        gated.opened[0].passes.release(10)
        assert (await old).provenance.model_version == "stub-1"
        await until(lambda: server.models.in_use == 1)
        assert gated.closed == [0]


async def test_a_pinned_version_is_computed_by_it_or_refused(repository: Path, events: Any) -> None:
    async with (
        swapping(repository) as server,
        grpc.aio.insecure_channel(str(server.address), OPTIONS) as channel,
    ):
        stub = ReconstructionStub(channel)
        (event,) = events(1)
        pinned = request(event, dead_list=NOTHING_DEAD, model_version="stub-1")
        many = pb.ReconstructBatchRequest(
            events=[pinned.event], dead_list=NOTHING_DEAD, model_version="stub-1"
        )
        stream = await opened(stub, model_version="stub-1", dead_list=NOTHING_DEAD)
        assert (await stub.Reconstruct(pinned)).provenance.model_version == "stub-1"
        await stream.send((1, event))
        assert (await stream.answer()).response.provenance.model_version == "stub-1"
        await server.models.swap(2)
        await refusal(stub.Reconstruct(pinned), Code.NOT_FOUND, "UNKNOWN_MODEL_VERSION")
        await refusal(stub.ReconstructBatch(many), Code.NOT_FOUND, "UNKNOWN_MODEL_VERSION")
        await stream.send((2, event))
        assert (await stream.answer()).error.reason == "UNKNOWN_MODEL_VERSION"
        await server.models.swap(1)
        await stream.send((3, event))
        assert (await stream.answer()).response.provenance.model_version == "stub-1"
        assert await stream.end() == []


async def test_one_swap_waits_for_the_other(repository: Path) -> None:
    at_once, most = 0, 0
    gated = Gated(repository)

    def slow(version: int | None) -> GatedEngine:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return gated(version)
        finally:
            at_once -= 1

    async with swapping(repository, reopen=slow) as server:
        swaps = [server.models.swap(version) for version in (2, 1, 2, 1, 2)]
        await asyncio.gather(*swaps)
        assert (server.model.version, server.models.swaps, most) == ("stub-2", 5, 1)
        await until(lambda: server.models.in_use == 1)
        assert sorted(gated.closed) == [0, 1, 2, 3, 4]


async def test_the_same_model_again_changes_nothing(repository: Path) -> None:
    gated = Gated(repository)
    async with swapping(repository, reopen=gated) as server:
        before = server.models.current
        assert await server.models.swap(1) is before.model
        assert server.models.current is before
        await until(lambda: gated.closed == [1])
        assert server.models.swaps == 0
        assert (await server.models.swap()).version == "stub-2"  # the highest


async def test_no_swap_comes_after_the_end(repository: Path) -> None:
    gated = Gated(repository)
    begun, go_on = threading.Event(), threading.Event()

    def slow(version: int | None) -> GatedEngine:
        engine = gated(version)
        if version == 2:
            begun.set()
            assert go_on.wait(30)
        return engine

    async with swapping(repository, reopen=slow) as server:
        swap = asyncio.create_task(server.operations.reload(2))
        await asyncio.to_thread(begun.wait, 30)
        await server.stop()
        go_on.set()
        with pytest.raises(Refusal, match="The server is stopping"):
            await swap
        with pytest.raises(DrainingError):
            await server.operations.reload(2)
        assert server.model.version == "stub-1"
        await until(lambda: sorted(gated.closed)[:2] == [0, 1])
