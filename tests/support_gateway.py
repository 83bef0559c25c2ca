"""A real Triton on the stub model that can be killed, stopped and replaced, and a gateway to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import build_stub_model, random_events, stub_answers, write_model
from support_server import NOTHING_DEAD
from xec.conditions.dead_list import DeadList
from xec.contract import INPUTS, MODEL_NAME, OUTPUTS
from xec.engines.base import tensors_of
from xec.engines.golden import GOLDEN_FILE, Golden, golden_bytes
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.engines.triton import CallSettings, TritonEngine
from xec.event import Event, EventBatch
from xec.lineage import sha256_of_bytes
from xec.wire import codec
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.address import Address
from xec_server.app import SERVICE, Server
from xec_server.model.gateway import Gateway
from xec_server.settings import ServerSettings
from xec_server.triton.launcher import TritonSettings, start

QUICK = CallSettings(patience=0.5, model_patience=5, look_every=0.1, model_every=1.0)
"""Looks often, so that tests need not wait for long."""

SLOW = 1536
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


def config_text(model: Any, **changes: str) -> str:
    """A configuration for the contract; `changes` replaces its parameters or adds batching."""
    batching = changes.pop("batching", "max_queue_delay_microseconds: 500")
    largest = changes.pop("max_batch_size", "64")
    parameters = {
        "sha256": model.sha256,
        "contract_version": model.contract_version,
        "geometry_hash": model.geometry_hash,
        **changes,
    }

    def tensors(group: Any) -> str:
        return ", ".join(
            f'{{ name: "{t.name}", data_type: {_TYPES[t.dtype]}, dims: [ {t.width} ] }}'
            for t in group
        )

    lines = [
        f'name: "{MODEL_NAME}"\nbackend: "onnxruntime"\nmax_batch_size: {largest}',
        f"input [ {tensors(INPUTS)} ]\noutput [ {tensors(OUTPUTS)} ]",
        f"dynamic_batching {{ {batching} }}\ninstance_group [ {{ kind: KIND_CPU, count: 1 }} ]",
        *(
            f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}'
            for k, v in parameters.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def vouched(folder: Path, name: str, content: bytes) -> None:
    """Write a file of a version, and its digest into the manifest."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": sha256_of_bytes(content), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def complete(repository: Path, inputs: Any | None = None, **changes: str) -> Path:
    """Add golden events and a configuration to a repository that has model and manifest."""
    engine = OnnxEngine(repository, OnnxSettings(sessions=1))
    inputs = inputs or tensors_of(random_events(3, seed=41))
    folder = repository / MODEL_NAME / "1"
    golden = Golden(inputs, engine.infer(inputs))
    vouched(folder, GOLDEN_FILE, golden_bytes(golden))
    config = config_text(engine.model, **changes)
    (repository / MODEL_NAME / "config.pbtxt").write_text(config)
    engine.close()
    return repository


def stub_triton_repository(folder: Path, metadata: Any = None, **changes: str) -> Path:
    """The stub model with all that Triton and the gateway want of a repository."""
    write_model(build_stub_model(metadata), folder)
    return complete(folder, **changes)


def slow_triton_repository(folder: Path, **changes: str) -> Path:
    """The stub model with some tenths of a second of work in each call, whatever its size."""
    from onnx import helper, numpy_helper

    model = build_stub_model()
    graph = model.graph
    for node in graph.node:
        if "energy" in node.output:
            node.output[0] = "energy_alone"
    shape = numpy_helper.from_array(np.array([SLOW, SLOW], dtype=np.int64), "slow_shape")
    nothing = numpy_helper.from_array(np.array([[0]], dtype=np.float32), "slow_nothing")
    graph.initializer.extend([shape, nothing])
    add = helper.make_node
    # From the answer, so that it cannot be computed once and for all when the model is loaded.
    graph.node.append(add("ReduceMax", ["energy_alone"], ["slow_seed"], keepdims=1))
    graph.node.append(add("Mul", ["slow_seed", "slow_nothing"], ["slow_zero"]))
    graph.node.append(add("Expand", ["slow_zero", "slow_shape"], ["slow_0"]))
    for step in range(3):
        graph.node.append(add("MatMul", [f"slow_{step}"] * 2, [f"slow_{step + 1}"]))
    graph.node.append(add("ReduceMax", ["slow_3"], ["slow_end"], keepdims=1))
    graph.node.append(add("Add", ["energy_alone", "slow_end"], ["energy"]))
    write_model(model, folder)
    return complete(folder, **changes)


def children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


class RealTriton:
    """A tritonserver on one port that is started, killed, held and replaced."""

    def __init__(self, repository: Path) -> None:
        self._server = start(TritonSettings(repository))
        self.address = self._server.address

    @property
    def process(self) -> int:
        """Of tritonserver itself."""
        (process,) = children(self._server.process_id)
        return process

    @property
    def worker(self) -> int:
        """Of the process that computes."""
        return children(self.process)[0]

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        assert self._server.wait(20)
        self._server.stop()

    def hold(self) -> None:
        os.kill(self.process, signal.SIGSTOP)

    def release(self) -> None:
        os.kill(self.process, signal.SIGCONT)

    def restart(self, repository: Path) -> None:
        """Another one at the same address."""
        port = int(self.address.rpartition(":")[2])
        self._server = start(TritonSettings(repository, grpc_port=port))

    def stop(self) -> None:
        """The short way: how Triton ends by itself is another file's subject."""
        with suppress(ProcessLookupError, FileNotFoundError):
            for process in children(self._server.process_id):
                os.kill(process, signal.SIGKILL)
        self._server.stop()


@contextmanager
def real_triton(repository: Path) -> Iterator[RealTriton]:
    triton = RealTriton(repository)
    try:
        yield triton
    finally:
        triton.stop()


@dataclass
class Gate:
    """A running gateway and one channel to it."""

    server: Server
    engine: TritonEngine
    channel: grpc.aio.Channel
    health: list[int] = field(default_factory=list)

    @property
    def stub(self) -> Any:
        return ReconstructionStub(self.channel)

    async def watch(self) -> None:
        """Collect what the health service says."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        async for answer in health_pb2_grpc.HealthStub(self.channel).Watch(request):
            self.health.append(answer.status)

    async def until(self, ready: bool) -> None:
        end = time.monotonic() + 60
        serving = health_pb2.HealthCheckResponse.SERVING
        while time.monotonic() < end:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            answer = await health_pb2_grpc.HealthStub(self.channel).Check(request)
            if (answer.status == serving) == ready:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"health did not change; Triton: {self.engine.reason}")


@asynccontextmanager
async def gateway(
    address: str,
    repository: Path,
    fallback: bool = False,
    calls: CallSettings = QUICK,
    **settings: Any,
) -> AsyncIterator[Gate]:
    engine = TritonEngine(address, repository, calls)
    reserve = OnnxEngine(repository, OnnxSettings(sessions=1)) if fallback else None
    server = Server(
        Gateway(engine, reserve),
        DeadList.of(()),
        ServerSettings(address=Address(port=0), **settings),
    )
    await server.start()
    options = [("grpc.max_receive_message_length", MAX_RESPONSE_BYTES)]
    try:
        async with grpc.aio.insecure_channel(str(server.address), options) as channel:
            gate = Gate(server, engine, channel)
            watching = asyncio.ensure_future(gate.watch())
            yield gate
            watching.cancel()
            await asyncio.wait([watching])
    finally:
        await server.stop()


def request(event: Event) -> pb.ReconstructRequest:
    return pb.ReconstructRequest(event=codec.event_to_proto(event), dead_list=NOTHING_DEAD)


def batch_request(batch: EventBatch) -> pb.ReconstructBatchRequest:
    messages = [codec.event_to_proto(event) for event in batch]
    return pb.ReconstructBatchRequest(events=messages, dead_list=NOTHING_DEAD)


@dataclass
class Tally:
    """What became of the calls of a load."""

    sent: int = 0
    right: int = 0
    wrong: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    engines: dict[str, int] = field(default_factory=dict)
    longest: float = 0.0

    @property
    def refused(self) -> int:
        return sum(self.codes.values())


class Load:
    """Several callers, one event per call, as fast as they are answered."""

    def __init__(self, stub: Any, timeout: float, callers: int = 8, events: int = 32) -> None:
        self.tally = Tally()
        self._stub = stub
        self._timeout = timeout
        batch = random_events(events, seed=5)
        self._events = list(batch)
        self._expected = stub_answers(tensors_of(batch))
        self._ended = False
        self._tasks = [asyncio.ensure_future(self._call(number)) for number in range(callers)]

    async def _call(self, number: int) -> None:
        row = number
        while not self._ended:
            row = (row + 1) % len(self._events)
            began = time.monotonic()
            self.tally.sent += 1
            try:
                call = self._stub.Reconstruct(request(self._events[row]), timeout=self._timeout)
                self._judge(await call, row)
            except grpc.aio.AioRpcError as error:
                name = error.code().name
                self.tally.codes[name] = self.tally.codes.get(name, 0) + 1
                await asyncio.sleep(0.01)
            self.tally.longest = max(self.tally.longest, time.monotonic() - began)

    def _judge(self, answer: pb.ReconstructResponse, row: int) -> None:
        good = all(
            np.allclose(getattr(answer, name).mean, self._expected[name][row], rtol=1e-4, atol=1e-4)
            for name in ("energy", "gamma_time", "uvw", "angle")
        )
        self.tally.right += good
        self.tally.wrong += not good
        engine = answer.provenance.engine
        self.tally.engines[engine] = self.tally.engines.get(engine, 0) + 1

    async def answered(self, count: int) -> None:
        """Wait for so many more right answers."""
        wanted = self.tally.right + count
        end = time.monotonic() + 60
        while self.tally.right < wanted:
            assert time.monotonic() < end, self.tally
            await asyncio.sleep(0.01)

    async def end(self) -> Tally:
        self._ended = True
        await asyncio.gather(*self._tasks)
        return self.tally
