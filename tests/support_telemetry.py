"""What a server's page of metrics says, and calls of every kind to fill it."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support_server import NOTHING_DEAD, SETTINGS, Code, Running, request, running
from support_stream import opened, until
from xec.conditions.dead_list import DeadList
from xec.event import Event, EventBatch
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.address import Address
from xec_server.app import Server
from xec_server.telemetry.settings import TelemetrySettings

WITH_METRICS = replace(SETTINGS, telemetry=TelemetrySettings(metrics=Address(port=0)))
NONE_DEAD = DeadList.of(())
RECONSTRUCT = "xec.v1.Reconstruction/Reconstruct"


class Page:
    """The samples of a scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in families for sample in family.samples]
        self.names = {sample.name for sample in self.samples}

    def of(self, name: str, **labels: str) -> list[Any]:
        """The samples of a name whose labels are these, and perhaps others."""
        assert name in self.names, name
        return [
            sample
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def sum(self, name: str, **labels: str) -> float:
        return float(sum(sample.value for sample in self.of(name, **labels)))

    def labels(self, name: str) -> set[str]:
        return {label for sample in self.of(name) for label in sample.labels}


def read(server: Server) -> Page:
    with urllib.request.urlopen(f"http://{server.telemetry.address}/metrics", timeout=30) as page:
        return Page(page.read().decode())


async def scrape(server: Server) -> Page:
    return await asyncio.to_thread(read, server)


@asynccontextmanager
async def measured(
    repository: Path, own: DeadList = NONE_DEAD, **changes: Any
) -> AsyncIterator[Running]:
    async with running(repository, own, replace(WITH_METRICS, **changes)) as service:
        yield service


async def failing(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    code: grpc.StatusCode = caught.value.code()
    return code


def spoiled(event: Event) -> Event:
    """The event with a reading that the contract forbids."""
    npho = event.npho.copy()
    npho[np.flatnonzero(event.npho_valid)[0]] = np.nan
    return replace(event, npho=npho)


async def call_in_every_way(service: Running, batch: EventBatch) -> None:
    """Calls that are answered, refused, late, cancelled and broken; 3 + 2 + 3 events are good."""
    first, *others = batch
    stub = service.stub
    for event in batch[:3]:
        await stub.Reconstruct(request(event), timeout=20)
    messages = [codec.event_to_proto(event) for event in others[:2]]
    await stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages))
    await stub.GetModel(pb.GetModelRequest())
    stream = await opened(stub, dead_list=NOTHING_DEAD)
    await stream.send(*enumerate([*batch[:3], spoiled(first)]))
    assert len(await stream.end()) == 4
    assert await failing(stub.Reconstruct(request(spoiled(first)))) is Code.INVALID_ARGUMENT
    path = f"/{RECONSTRUCT}"
    assert await failing(service.channel.unary_unary(path)(b"\xff")) is Code.INVALID_ARGUMENT
    unknown = stub.Reconstruct(request(first, model_version="none"))
    assert await failing(unknown) is Code.NOT_FOUND
    await _call_late(service, first)
    await _call_broken(service, first)


async def _call_late(service: Running, event: Event) -> None:
    """One event too late for its deadline after it was begun, one before, one taken back."""
    counts = service.server.batcher.counts
    service.engine.hold()
    begun = [service.stub.Reconstruct(request(event), timeout=3) for _ in range(2)]
    await until(lambda: counts.accepted == 10)
    waits = service.stub.Reconstruct(request(event), timeout=3)
    taken_back = asyncio.ensure_future(service.stub.Reconstruct(request(event)))
    await until(lambda: counts.accepted == 12)
    for call in (*begun, waits):
        assert await failing(call) is Code.DEADLINE_EXCEEDED
    taken_back.cancel()
    await asyncio.sleep(0.1)  # that may take its time to be known
    service.engine.passes.release(10**6)
    await until(lambda: counts.computed == 10 and not service.server.batcher.waiting)


async def _call_broken(service: Running, event: Event) -> None:
    def spoil(outputs: dict[str, np.ndarray]) -> None:
        outputs["energy"] = np.full_like(outputs["energy"], np.nan)

    service.engine.answer = spoil
    assert await failing(service.stub.Reconstruct(request(event))) is Code.INTERNAL
    service.engine.answer = lambda outputs: None
