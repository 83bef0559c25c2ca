"""The gateway before a real Triton: batches in one place, provenance, readiness, `xec serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support_gateway import (
    RealTriton,
    batch_request,
    gateway,
    real_triton,
    request,
    slow_triton_repository,
    stub_triton_repository,
)
from support_server import Code, details
from xec.contract import MODEL_NAME
from xec.engines.base import tensors_of
from xec.engines.device import Device
from xec.engines.kind import EngineKind
from xec.engines.onnx import OnnxSettings
from xec.engines.triton import CallSettings
from xec.errors import EngineError, UsageError
from xec.event import EventBatch
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.model.engines import EngineChoice
from xec_server.queueing.forwarder import ForwardPolicy

Events = Callable[..., EventBatch]
Status = health_pb2.HealthCheckResponse
CALM = CallSettings(model_every=600)  # no golden events between those that are counted
COLLECTS = "max_queue_delay_microseconds: 100000, preferred_batch_size: [ 16 ]"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_triton_repository(tmp_path_factory.mktemp("stub"), batching=COLLECTS)


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[RealTriton]:
    with real_triton(repository) as triton:
        yield triton


def statistics(address: str) -> tuple[int, int, int]:
    """Of Triton: requests answered, events in them, and runs of the model."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        question = service_pb2.ModelStatisticsRequest(name=MODEL_NAME)
        (answer,) = stub.ModelStatistics(question).model_stats
    return (
        answer.inference_stats.success.count,
        answer.inference_count,
        answer.execution_count,
    )


def settled(address: str) -> tuple[int, int, int]:
    """The statistics once the golden events of the start are among them."""
    while True:
        found = statistics(address)
        time.sleep(0.05)
        if found[0] > 0 and statistics(address) == found:
            return found


def grown(address: str, before: tuple[int, int, int], events: int) -> tuple[int, ...]:
    """How they grew, once they hold so many more events: Triton counts after it has answered."""
    end = time.monotonic() + 60
    while True:
        growth = tuple(b - a for a, b in zip(before, statistics(address), strict=True))
        if growth[1] >= events or time.monotonic() > end:
            return growth
        time.sleep(0.01)


# --- batches are made in one place ---------------------------------------------------------------


async def test_a_batch_is_one_request_with_the_right_answers(
    triton: RealTriton, repository: Path, events: Events, answers: Any
) -> None:
    batch = events(64)
    async with gateway(triton.address, repository, calls=CALM) as gate:
        before = settled(triton.address)
        response = await gate.stub.ReconstructBatch(batch_request(batch), timeout=20)
        after = grown(triton.address, before, 64)
    assert after == (1, 64, 1)
    expected = answers(batch)
    assert [answer.event for answer in response.responses] == batch.event.tolist()
    for row, answer in enumerate(response.responses):
        assert answer.timings.batch_size == 64
        assert answer.provenance.engine == "triton"
        np.testing.assert_allclose(answer.uvw.mean, expected["uvw"][row], rtol=1e-4, atol=1e-4)


async def test_single_events_go_side_by_side_and_triton_collects_them(
    triton: RealTriton, repository: Path, events: Events, answers: Any
) -> None:
    batch = events(16)
    async with gateway(triton.address, repository, calls=CALM) as gate:
        before = settled(triton.address)
        calls = [gate.stub.Reconstruct(request(event), timeout=20) for event in batch]
        found = await asyncio.gather(*calls)
        requests, inferences, runs = grown(triton.address, before, 16)
    assert (requests, inferences) == (16, 16)
    assert runs < 8
    expected = answers(batch)["energy"]
    np.testing.assert_allclose([a.energy.mean[0] for a in found], expected[:, 0], rtol=1e-4)


async def test_calls_beyond_the_bound_wait_here(
    triton: RealTriton, repository: Path, events: Events
) -> None:
    """One at a time, Triton has nothing to collect: the control of the test above."""
    forwarding = ForwardPolicy(calls=1)
    async with gateway(triton.address, repository, calls=CALM, forwarding=forwarding) as gate:
        before = settled(triton.address)
        calls = [gate.stub.Reconstruct(request(event), timeout=20) for event in events(4)]
        await asyncio.gather(*calls)
        assert grown(triton.address, before, 4) == (4, 4, 4)


async def test_an_answer_is_the_same_as_from_the_embedded_engine(
    triton: RealTriton, repository: Path, events: Events
) -> None:
    batch = events(3)
    async with gateway(triton.address, repository, fallback=True) as gate:
        mine = (await gate.stub.ReconstructBatch(batch_request(batch), timeout=20)).responses
        reserve = gate.server.models.current.engine._reserve
        outputs = reserve.infer(tensors_of(batch))
        model = await gate.stub.GetModel(pb.GetModelRequest())
    np.testing.assert_allclose(
        [answer.uvw.mean for answer in mine], outputs["uvw"], rtol=1e-5, atol=1e-5
    )
    assert model.provenance.engine == "triton"
    assert model.provenance.model_sha256 == mine[0].provenance.model_sha256


async def test_bad_events_are_refused_before_triton(
    triton: RealTriton, repository: Path, events: Events
) -> None:
    event = next(iter(events(1)))
    message = request(event)
    message.event.npho = codec.encode_array(np.full(4760, np.nan, dtype=np.float32))
    async with gateway(triton.address, repository, calls=CALM) as gate:
        before = settled(triton.address)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gate.stub.Reconstruct(message)
        assert caught.value.code() == Code.INVALID_ARGUMENT
        await asyncio.sleep(0.1)
        assert grown(triton.address, before, 0) == (0, 0, 0)


# --- readiness -----------------------------------------------------------------------------------


async def test_it_is_ready_when_triton_is(repository: Path, tmp_path: Path, events: Events) -> None:
    ready = tmp_path / "ready"
    with real_triton(repository) as triton:
        triton.kill()
        async with gateway(triton.address, repository, ready_file=ready) as gate:
            await asyncio.sleep(0.2)
            assert gate.health == [Status.NOT_SERVING]
            assert not ready.exists()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gate.stub.Reconstruct(request(next(iter(events(1)))))
            assert caught.value.code() == Code.UNAVAILABLE
            assert details(caught.value)["ErrorInfo"].reason == "ENGINE_AWAY"
            assert triton.address not in caught.value.details()
            await asyncio.to_thread(triton.restart, repository)
            await asyncio.wait_for(gate.server.ready(), 20)
            assert ready.read_text() == f"{gate.server.address}\n"
            await gate.stub.Reconstruct(request(next(iter(events(1)))), timeout=20)
            assert gate.health == [Status.NOT_SERVING, Status.SERVING]
    assert not ready.exists()


async def test_it_stops_in_time_although_triton_is_held(repository: Path, events: Events) -> None:
    with real_triton(repository) as triton:
        async with gateway(triton.address, repository, grace=0.2) as gate:
            await gate.stub.Reconstruct(request(next(iter(events(1)))), timeout=20)
            triton.hold()
            call = asyncio.ensure_future(gate.stub.Reconstruct(request(next(iter(events(1))))))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await gate.server.stop()
            took = time.monotonic() - began
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
        triton.release()
    assert caught.value.code() == Code.UNAVAILABLE
    assert took < 60  # not the ten minutes of a call without a deadline


# --- which engine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"kind": EngineKind.TRITON}, "belong together"),
        ({"triton": "127.0.0.1:1"}, "belong together"),
        ({"fallback": True}, "needs --engine triton"),
        ({"kind": EngineKind.TORCH, "onnx": OnnxSettings(device=Device.TENSORRT)}, "--device cuda"),
    ],
)
def test_choices_that_contradict_themselves(choice: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        EngineChoice(Path("none"), **choice)


def test_a_device_that_is_not_there_is_refused(stub_repository: Path) -> None:
    with pytest.raises(EngineError, match="or say --device cpu"):
        EngineChoice(stub_repository, onnx=OnnxSettings(device=Device.CUDA)).open()


def serve(*arguments: str | Path) -> list[str]:
    code = "from xec.cli import main; main()"
    listen = ("--listen", "127.0.0.1:0", "--no-dead-list", "--sessions", "1")
    return [sys.executable, "-c", code, "serve", *listen, *map(str, arguments)]


def test_xec_serve_before_triton(
    triton: RealTriton, repository: Path, tmp_path: Path, events: Events
) -> None:
    ready = tmp_path / "ready"
    arguments = serve(
        "--model", repository, "--engine", "triton", "--triton", triton.address,
        "--ready-file", ready,
    )  # fmt: skip
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("xec serve: model reconstruct stub-1")
            with grpc.insecure_channel(ready.read_text().strip()) as channel:
                event = next(iter(events(1)))
                answer = ReconstructionStub(channel).Reconstruct(request(event), timeout=20)
            assert answer.provenance.engine == "triton"
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not ready.exists()


def test_xec_serve_refuses_another_triton(triton: RealTriton, tmp_path: Path) -> None:
    repository = stub_triton_repository(tmp_path, {"model_version": "stub-2"})
    cases = [
        (("--engine", "triton", "--triton", triton.address), 5, "runs another reconstruct"),
        (("--engine", "triton"), 2, "belong together"),
        (("--device", "cuda"), 6, "or say --device cpu"),
        (("--engine", "torch"), 5, "has no model.pt"),
    ]
    for arguments, code, words in cases:
        command = serve("--model", repository, *arguments)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == code, (arguments, ended.stderr)
        assert words in ended.stderr
        assert ended.stderr.startswith("xec: ")
        assert ended.stderr.count("\n") == 1


# --- what Triton's configuration asks for --------------------------------------------------------

QUEUES = (
    "max_queue_delay_microseconds: 0, priority_levels: 2, default_priority_level: 2, "
    "default_queue_policy { timeout_action: REJECT, default_timeout_microseconds: 60000000, "
    "allow_timeout_override: true, max_queue_size: 64 }"
)


async def test_requests_are_as_large_as_triton_takes_them(
    tmp_path: Path, events: Events, answers: Any
) -> None:
    """The reproducible flavour takes one event at a time; they go side by side."""
    repository = stub_triton_repository(tmp_path, max_batch_size="1")
    batch = events(9)
    with real_triton(repository) as triton:
        async with gateway(triton.address, repository, calls=CALM) as gate:
            before = settled(triton.address)
            response = await gate.stub.ReconstructBatch(batch_request(batch), timeout=20)
            assert grown(triton.address, before, 9) == (9, 9, 9)
    expected = answers(batch)["energy"][:, 0]
    found = [answer.energy.mean[0] for answer in response.responses]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert {answer.timings.batch_size for answer in response.responses} == {1}


async def test_single_events_overtake_batches(tmp_path: Path, events: Events) -> None:
    """Batches of 64 wait in Triton's second queue; the one event goes through its first."""
    repository = slow_triton_repository(tmp_path, batching=QUEUES)
    message = batch_request(events(64))
    with real_triton(repository) as triton:
        async with gateway(triton.address, repository) as gate:
            order: list[str] = []

            async def send(name: str, call: Any) -> None:
                await call
                order.append(name)

            batches = [
                asyncio.ensure_future(
                    send("batch", gate.stub.ReconstructBatch(message, timeout=60))
                )
                for _ in range(5)
            ]
            while gate.server.batcher.counts.accepted < 5 * 64:
                await asyncio.sleep(0.001)
            while not order:
                await asyncio.sleep(0.001)
            single = request(next(iter(events(1))))
            await send("single", gate.stub.Reconstruct(single, timeout=60))
            await asyncio.gather(*batches)
    assert order.index("single") < 5  # where it came last
