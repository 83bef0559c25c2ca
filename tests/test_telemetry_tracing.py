"""Spans of real calls: kept in memory, and sent to a receiver of the published protocol."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from support_server import NOTHING_DEAD, SETTINGS, Code, Events, Running, request, running
from support_stream import opened
from support_telemetry import failing, spoiled
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client import AsyncClient, Client
from xec_server.telemetry import tracing as tracing_module
from xec_server.telemetry.settings import TelemetrySettings
from xec_server.telemetry.tracing import Tracing

TRACED = replace(SETTINGS, telemetry=TelemetrySettings(trace="http://127.0.0.1:1"))
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@asynccontextmanager
async def traced(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Running, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing_module, "tracing_to", lambda url: Tracing(exporter))
    async with running(repository, settings=TRACED) as service:
        yield service, exporter


async def spans_of(service: Running, exporter: InMemorySpanExporter) -> dict[str, list[Any]]:
    await asyncio.to_thread(service.server.telemetry._tracing._provider.force_flush)  # type: ignore[union-attr]
    found: dict[str, list[Any]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


async def test_a_call_and_in_it_queue_and_compute(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traced(stub_repository, monkeypatch) as (service, exporter):
        event = next(iter(events(1)))
        answer = await service.stub.Reconstruct(
            request(event), metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),)
        )
        found = await spans_of(service, exporter)
        (call,) = found["xec.v1.Reconstruction/Reconstruct"]
        (queue,), (compute,) = found["queue"], found["compute"]
        assert f"{call.context.trace_id:032x}" == TRACE
        assert f"{call.parent.span_id:016x}" == PARENT
        assert call.kind is SpanKind.SERVER
        assert call.attributes["rpc.method"] == "Reconstruct"
        assert call.attributes["rpc.grpc.status_code"] == 0
        assert (call.attributes["xec.run"], call.attributes["xec.event"]) == (1000, 0)
        for span in (queue, compute):
            assert span.parent.span_id == call.context.span_id
            assert call.start_time <= span.start_time <= span.end_time <= call.end_time
        seconds = (compute.end_time - compute.start_time) / 1e9
        assert seconds == pytest.approx(answer.timings.compute_seconds, abs=1e-6)
        assert compute.attributes["xec.engine"] == "onnx"


async def test_calls_that_fail_and_events_of_streams(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traced(stub_repository, monkeypatch) as (service, exporter):
        batch = events(3)
        bad = spoiled(next(iter(batch)))
        assert await failing(service.stub.Reconstruct(request(bad))) is Code.INVALID_ARGUMENT
        stream = await opened(service.stub, dead_list=NOTHING_DEAD)
        await stream.send(*enumerate([*batch, bad]))
        await stream.end()
        messages = [codec.event_to_proto(event) for event in batch]
        await service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages))
        found = await spans_of(service, exporter)
        (failed,) = found["xec.v1.Reconstruction/Reconstruct"]
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.attributes["xec.reason"] == "invalid_event"
        assert failed.parent is None  # without a traceparent it is the first of its trace
        (streamed,) = found["xec.v1.Reconstruction/ReconstructStream"]
        assert [event.attributes["xec.reason"] for event in streamed.events] == ["invalid_event"]
        (many,) = found["xec.v1.Reconstruction/ReconstructBatch"]
        parents = [span.parent.span_id for span in found["compute"]]
        assert parents.count(streamed.context.span_id) == 3
        assert parents.count(many.context.span_id) == 1


@pytest.mark.parametrize("parent", ["", "00-zz-xx-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_parent_that_makes_no_sense_is_none(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch, parent: str
) -> None:
    async with traced(stub_repository, monkeypatch) as (service, exporter):
        message = request(next(iter(events(1))))
        await service.stub.Reconstruct(message, metadata=(("traceparent", parent),))
        (call,) = (await spans_of(service, exporter))["xec.v1.Reconstruction/Reconstruct"]
        assert call.parent is None


async def test_our_clients_name_their_open_span(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("a program")
    async with traced(stub_repository, monkeypatch) as (service, exporter):
        batch = events(2)
        async with AsyncClient(str(service.server.address)) as client:
            await client.model()
            with tracer.start_as_current_span("analysis") as span:
                await client.reconstruct(next(iter(batch)))
                assert len([one async for one in client.stream(batch)]) == 2
        own = span.get_span_context().span_id

        def block() -> None:
            with Client(str(service.server.address)) as client, trace.use_span(span):
                client.reconstruct_batch(batch)

        await asyncio.to_thread(block)
        found = await spans_of(service, exporter)
        for method in ("Reconstruct", "ReconstructBatch", "ReconstructStream"):
            (call,) = found[f"xec.v1.Reconstruction/{method}"]
            assert call.parent.span_id == own
        (model,) = found["xec.v1.Reconstruction/GetModel"]
        assert model.parent is None  # nothing was open then


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    """Takes spans as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.service = ""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            self.service = names["service.name"]
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("by_variable", [False, True])
async def test_spans_reach_a_collector(
    stub_repository: Path, events: Events, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    with receiving() as (receiver, url):
        if by_variable:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        told = TelemetrySettings(trace="" if by_variable else url)
        async with running(stub_repository, settings=replace(SETTINGS, telemetry=told)) as service:
            await service.stub.Reconstruct(request(next(iter(events(1)))))
        names = sorted(span.name for span in receiver.spans)
    assert names == ["compute", "queue", "xec.v1.Reconstruction/Reconstruct"]
    assert receiver.service == "xec"


async def test_a_collector_that_is_not_there_holds_nobody_up(
    stub_repository: Path, events: Events
) -> None:
    async with running(stub_repository, settings=TRACED) as service:
        for event in events(5):
            await service.stub.Reconstruct(request(event), timeout=20)
        ending = asyncio.get_running_loop().time()
        await asyncio.to_thread(service.server.telemetry.stop)
        assert asyncio.get_running_loop().time() - ending < 2 * tracing_module._FLUSH_SECONDS


LOADED = """
import sys
import xec_server.app, xec_server.command, xec_client
print(sorted({name.split(".")[0] for name in sys.modules} & {"opentelemetry", "prometheus_client"}))
"""


def test_what_is_not_wanted_is_not_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
