"""Metrics of a real server, read as Prometheus reads them, against what was done to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support_databases import free_port
from support_gateway import QUICK, stub_triton_repository
from support_server import NOTHING_DEAD, SETTINGS, Code, Events, request
from support_stream import opened, until
from support_telemetry import (
    RECONSTRUCT,
    WITH_METRICS,
    call_in_every_way,
    failing,
    measured,
    scrape,
)
from xec.conditions.dead_list import DeadList
from xec.detector.channels import FACE_IDS, Face
from xec.engines.device import Device
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.engines.triton import TritonEngine
from xec_client import AsyncClient
from xec_server.app import Server
from xec_server.calls.call import Call
from xec_server.model.gateway import Gateway
from xec_server.telemetry.metrics import MOST_CLIENTS, Metrics
from xec_server.telemetry.outputs import _Rising, light_by_face

Answers = Callable[[Any], dict[str, np.ndarray]]


async def test_calls_are_counted_by_what_became_of_them(
    stub_repository: Path, events: Events
) -> None:
    async with measured(stub_repository) as service:
        await call_in_every_way(service, events(3))
        page = await scrape(service.server)
        ended = {
            (s.labels["code"], s.labels["reason"]): s.value
            for s in page.of("xec_calls_total", method=RECONSTRUCT)
        }
        assert ended == {
            ("OK", ""): 3,
            ("INVALID_ARGUMENT", "invalid_event"): 1,
            ("INVALID_ARGUMENT", "unparseable_request"): 1,
            ("NOT_FOUND", "unknown_model_version"): 1,
            ("CANCELLED", ""): 4,  # three by their deadlines, as gRPC tells it
            ("INTERNAL", "defect"): 1,
        }
        assert {s.labels["client"] for s in page.of("xec_calls_total")} == {"unnamed"}
        assert page.sum("xec_calls_in_progress") == 0
        assert page.sum("xec_call_seconds_count", method=RECONSTRUCT) == sum(ended.values())
        assert page.sum("xec_deadline_misses_total", how="cut_off") == 3
        refused = page.of("xec_stream_events_refused_total")
        assert [(s.labels["reason"], s.value) for s in refused] == [("invalid_event", 1)]
        assert page.sum("xec_not_finite_total") == 1
        assert page.sum("xec_telemetry_failures_total") == 0


async def test_what_the_server_counts_by_itself_is_shown_as_it_is(
    stub_repository: Path, events: Events
) -> None:
    async with measured(stub_repository) as service:
        await call_in_every_way(service, events(3))
        page = await scrape(service.server)
        counts = service.server.batcher.counts
        fates = {s.labels["fate"]: s.value for s in page.of("xec_events_total")}
        assert fates == asdict(counts)
        assert counts.computed == page.sum("xec_engine_events_total") - 1 == 10
        assert page.sum("xec_queue_seconds_count") == page.sum("xec_compute_seconds_count") == 8
        assert page.sum("xec_queue_seconds_count", lane="offline") == 2
        assert page.sum("xec_batch_events_sum") == page.sum("xec_dead_sensors_count") == 11
        streams = service.server.streams.counts
        assert page.sum("xec_stream_events_total", fate="read") == streams.events == 4
        assert page.sum("xec_streams_total", fate="opened") == 1
        assert page.sum("xec_queue_limit") == SETTINGS.batching.queue
        (model,) = page.of("xec_model_info")
        assert (model.labels["version"], model.labels["preset"]) == ("stub-1", "stub")
        assert service.server.model.sha256.startswith(model.labels["sha256"])
        assert page.sum("xec_serving") == 1
        assert page.sum("xec_insecure_listen") == 0
        assert page.sum("process_resident_memory_bytes") > 1e7


async def test_what_waits_and_runs_is_seen_while_it_does(
    stub_repository: Path, events: Events
) -> None:
    async with measured(stub_repository) as service:
        service.engine.hold()
        event = next(iter(events(1)))
        calls = [asyncio.ensure_future(service.stub.Reconstruct(request(event))) for _ in range(7)]
        while service.server.batcher.counts.accepted < 7:
            await asyncio.sleep(0.005)
        page = await scrape(service.server)
        assert page.sum("xec_calls_in_progress") == 7
        waiting = page.sum("xec_queue_events", lane="online")
        assert waiting == service.server.batcher.waiting > 0
        service.engine.passes.release(100)
        await asyncio.gather(*calls)
        page = await scrape(service.server)
        assert page.sum("xec_calls_in_progress") == page.sum("xec_queue_events") == 0


async def test_events_refused_for_their_deadline_are_misses(
    stub_repository: Path, events: Events
) -> None:
    async with measured(stub_repository) as service:
        service.engine.hold()
        stream = await opened(service.stub, dead_list=NOTHING_DEAD)
        await stream.send(*enumerate(events(8)))
        await until(lambda: service.server.batcher.counts.accepted == 8)
        await stream.send((8, next(iter(events(1)))), timeout=0.05)
        await until(lambda: service.server.batcher.counts.accepted == 9)
        await asyncio.sleep(0.1)
        service.engine.passes.release(100)
        codes = [answer.error.code for answer in await stream.end()]
        assert sorted(codes) == [0] * 8 + [Code.DEADLINE_EXCEEDED.value[0]]
        page = await scrape(service.server)
        assert page.sum("xec_deadline_misses_total", how="refused") == 1
        assert page.sum("xec_deadline_misses_total", how="cut_off") == 0
        assert page.sum("xec_events_total", fate="expired") == 1


def light_of(values: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Sums by face, sensor by sensor."""
    return {
        face.value: float(sum(values[:, i][valid[:, i]].sum() for i in ids))
        for face, ids in FACE_IDS.items()
    }


async def test_light_is_summed_over_live_sensors_by_face(
    stub_repository: Path, events: Events, answers: Answers
) -> None:
    dead = DeadList.of([5, 44, 4100, 4759])
    async with measured(stub_repository, dead) as service:
        batch = events(6)
        seen = batch.with_dead(dead.mask)
        for event in batch:
            await service.stub.Reconstruct(request(event))
        page = await scrape(service.server)
        valid = seen.npho_valid
        for what, values in (
            ("predicted", answers(seen)["npho_mean"]),
            ("measured", seen.npho.astype(np.float64)),
        ):
            told = {s.labels["face"]: s.value for s in page.of(f"xec_light_{what}_photons_total")}
            assert told == pytest.approx(light_of(values, valid), rel=1e-5)
        numbers = (~valid).sum(axis=1)
        assert page.sum("xec_dead_sensors_sum") == numbers.sum()
        assert page.sum("xec_recovered_sensors_total") == numbers.sum()
        below = page.sum("xec_dead_sensors_bucket", le="100.0")
        assert below == np.count_nonzero(numbers <= 100)


async def test_light_that_is_no_number_is_left_out(stub_repository: Path, events: Events) -> None:
    async with measured(stub_repository) as service:
        first, second = events(2)
        await service.stub.Reconstruct(request(first))
        before = (await scrape(service.server)).sum("xec_light_predicted_photons_total")

        def spoil(outputs: dict[str, np.ndarray]) -> None:
            outputs["npho_mean"] = outputs["npho_mean"].copy()
            outputs["npho_mean"][:, 17] = np.nan

        service.engine.answer = spoil
        assert await failing(service.stub.Reconstruct(request(second))) is Code.INTERNAL
        page = await scrape(service.server)
        assert page.sum("xec_light_predicted_photons_total") == before > 0
        assert page.sum("xec_not_finite_total") == 1


@given(st.lists(st.floats(-100, 100), max_size=30))
def test_rising_sums_never_fall_and_lose_nothing(parts: list[float]) -> None:
    sums = _Rising()
    told = [0.0]
    for part in parts:
        sums.add({Face.TOP: part})
        told.append(sums.total[Face.TOP])
    assert told == sorted(told)
    assert told[-1] + sums._owed[Face.TOP] == pytest.approx(sum(parts), abs=1e-6)


def test_each_sensor_belongs_to_one_face() -> None:
    assert light_by_face(np.ones(4760)) == {face: len(ids) for face, ids in FACE_IDS.items()}


async def test_flags_are_counted(stub_repository: Path, events: Events) -> None:
    async with measured(stub_repository) as service:
        batch = events(20)
        raised = 0
        for event in batch:
            answer = await service.stub.Reconstruct(request(event))
            raised += answer.flags.outside_fiducial
        page = await scrape(service.server)
        assert page.sum("xec_flags_total", flag="outside_fiducial") == raised
        assert page.sum("xec_flags_total") == raised  # the stub never knew its limits
        assert raised > 0


async def test_answers_of_the_fall_back_are_told_apart(tmp_path: Path, events: Events) -> None:
    repository = stub_triton_repository(tmp_path)
    nobody = f"127.0.0.1:{free_port()}"
    gateway = Gateway(TritonEngine(nobody, repository, QUICK), OnnxEngine(repository))
    server = Server(gateway, DeadList.of(()), WITH_METRICS)
    await server.start()
    try:
        async with AsyncClient(str(server.address)) as client:
            await client.wait_ready(20)
            await client.reconstruct(next(iter(events(1))))
        page = await scrape(server)
        assert page.sum("xec_engine_events_total", engine="onnx", fallback="true") == 1
        assert page.sum("xec_engine_events_total") == 1
    finally:
        await server.stop()


@contextmanager
def _ended(metrics: Metrics, name: str | None) -> Iterator[None]:
    call = Call("/a/B", None, "ipv4:10.0.0.1:5")  # type: ignore[arg-type]
    with metrics.watch(call):
        if name is not None:
            call.caller = name
        yield


def test_labels_of_clients_are_names_and_bounded() -> None:
    metrics = Metrics()
    for number in range(MOST_CLIENTS + 50):
        with _ended(metrics, f"client {number}"):
            pass
    with _ended(metrics, None), _ended(metrics, "client 3"):
        pass
    samples = [s for family in metrics.registry.collect() for s in family.samples]
    calls = {s.labels["client"]: s.value for s in samples if s.name == "xec_calls_total"}
    assert len(calls) == MOST_CLIENTS + 2
    assert (calls["other"], calls["unnamed"], calls["client 3"]) == (50, 1, 2)
    assert not any("10.0.0.1" in value for s in samples for value in s.labels.values())


def test_rows_that_fill_up_a_bucket_are_counted_on_a_gpu(stub_repository: Path) -> None:
    engine = OnnxEngine(stub_repository, OnnxSettings(sessions=1, largest_batch=12))
    assert [engine.rows_for(n) for n in (1, 3, 12, 30)] == [1, 3, 12, 30]
    engine.settings = OnnxSettings(sessions=1, largest_batch=12, device=Device.CUDA)
    # Buckets of 1, 2, 4, 8, 12: 30 events are 12 + 12 + 6, and 6 go into 8.
    assert [engine.rows_for(n) for n in (1, 3, 5, 12, 13, 30)] == [1, 4, 8, 12, 13, 32]
    engine.close()


async def test_a_defect_of_telemetry_fails_no_call(
    stub_repository: Path, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    async with measured(stub_repository) as service:
        telemetry = service.server.telemetry

        def broken(*arguments: object) -> None:
            raise RuntimeError("a defect")

        telemetry._outputs.observe = broken  # type: ignore[union-attr, method-assign]
        telemetry._metrics.answered = broken  # type: ignore[union-attr, method-assign]
        telemetry._metrics._count_miss = broken  # type: ignore[union-attr, method-assign]
        event = next(iter(events(1)))
        assert (await service.stub.Reconstruct(request(event))).event == event.event
        assert (await scrape(service.server)).sum("xec_telemetry_failures_total") == 3
        assert "a defect" in caplog.text


async def test_without_metrics_nothing_is_kept(service: Any) -> None:
    from xec_server.queueing.batcher import Batcher

    telemetry = service.server.telemetry
    assert (telemetry.address, telemetry._metrics, telemetry._tracing) == (None, None, None)
    assert isinstance(service.server.batcher, Batcher)
    assert len(telemetry.watchers) == 1  # the log's
