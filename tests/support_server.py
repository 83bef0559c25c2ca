"""A real server whose engine may be held back, and what its refusals say."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from xec.conditions.dead_list import DeadList
from xec.detector.channels import N_CHANNELS
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.event import Event, EventBatch
from xec.wire import codec
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.address import Address
from xec_server.app import Server
from xec_server.queueing.batcher import BatchPolicy
from xec_server.settings import ServerSettings

Code = grpc.StatusCode
Events = Callable[..., EventBatch]
DEAD = DeadList.of([5, 44, 4100, 4759])
NOTHING_DEAD = codec.dead_list_of_channels(np.zeros(N_CHANNELS, dtype=bool))
SETTINGS = ServerSettings(
    address=Address(port=0), grace=20, batching=BatchPolicy(size=4, queue=300, workers=2)
)


class GatedEngine:
    """The real engine, whose calls count, may be held back, or fail."""

    def __init__(self, inner: OnnxEngine) -> None:
        self.inner = inner
        self.model = inner.model
        self.rows = 0
        self.started = threading.Semaphore(0)
        self.passes = threading.Semaphore(10**9)
        self.answer: Callable[[dict[str, np.ndarray]], None] = lambda outputs: None

    def hold(self) -> None:
        self.passes = threading.Semaphore(0)

    def infer(self, inputs: Any) -> dict[str, np.ndarray]:
        self.rows += len(inputs["npho"])
        self.started.release()
        assert self.passes.acquire(timeout=30)
        outputs = self.inner.infer(inputs)
        self.answer(outputs)
        return outputs

    def close(self) -> None:
        self.inner.close()


@dataclass
class Running:
    server: Server
    engine: GatedEngine
    stub: Any
    channel: grpc.aio.Channel


@asynccontextmanager
async def running(
    repository: Path, own: DeadList | None = DEAD, settings: ServerSettings = SETTINGS
) -> AsyncIterator[Running]:
    engine = GatedEngine(OnnxEngine(repository, OnnxSettings(sessions=2)))
    server = Server(engine, own, settings)
    await server.start()
    options = [("grpc.max_receive_message_length", MAX_RESPONSE_BYTES)]
    try:
        async with grpc.aio.insecure_channel(str(server.address), options) as channel:
            yield Running(server, engine, ReconstructionStub(channel), channel)
    finally:
        engine.passes.release(10**6)
        await server.stop()


def request(event: Event, **fields: Any) -> pb.ReconstructRequest:
    return pb.ReconstructRequest(event=codec.event_to_proto(event), **fields)


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The rich details by type name, after checking that they fit into the metadata."""
    (packed,) = [v for k, v in error.trailing_metadata() if k == "grpc-status-details-bin"]
    assert len(packed) < 8 * 1024
    sync_error = type("Call", (), {"code": error.code, "details": error.details})()
    sync_error.trailing_metadata = lambda: [("grpc-status-details-bin", packed)]
    found = {}
    for detail in rpc_status.from_call(sync_error).details:
        kind = getattr(error_details_pb2, detail.type_url.rpartition(".")[2])
        found[kind.DESCRIPTOR.name] = kind.FromString(detail.value)
    return found


async def refusal(call: Any, code: grpc.StatusCode, reason: str) -> tuple[str, dict[str, Any]]:
    """The message and details of a call that must be refused in exactly this way."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == code
    found = details(caught.value)
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == (reason, "xec.v1")
    return caught.value.details(), found


async def still_serves(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    assert (await service.stub.Reconstruct(request(event))).event == event.event


def violated(found: dict[str, Any]) -> list[str]:
    return [violation.field for violation in found["BadRequest"].field_violations]
