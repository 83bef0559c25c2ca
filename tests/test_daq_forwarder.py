"""The forwarder against a server that fails on purpose: what is kept, refused or tried again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from conftest import random_events
from support_client import FaultyServicer, answer_to, retry_info, rich, serving
from xec.contract import CONTRACT_VERSION
from xec.errors import ModelError
from xec.event import EventBatch
from xec.io.parquet_read import describe_results
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client import Client
from xec_client.daq.breaker import BackOff, Breaker
from xec_client.daq.forwarder import Forwarder, ForwardSettings
from xec_client.daq.parts import ids_in, parts_in
from xec_client.daq.payload import Parcel, pack, pack_unreadable
from xec_client.daq.sink import PartSink, SinkSettings
from xec_client.daq.spool import EventId, Spool, SpoolSettings
from xec_client.daq.spool.contents import read_contents
from xec_client.retry import NO_RETRY

Code = grpc.StatusCode
QUICK = BackOff(first_wait=0.005, longest_wait=0.02)


class Server(FaultyServicer):
    """Fails on what its rules name; keeps the ids of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[tuple[int, int]]] = []
        self.times: list[float] = []
        self.rule: Callable[[list[tuple[int, int]]], Any] = lambda ids: None
        self.version = "1"
        self.geometry = ""
        self.models = 0

    def ReconstructBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        ids = [(event.run, event.event) for event in request.events]
        self.asked.append(ids)
        self.times.append(time.monotonic())
        outcome = self.rule(ids)
        if outcome is not None:
            return context.abort_with_status(outcome)
        responses = [answer_to(event) for event in request.events]
        for response in responses:
            response.provenance.model_version = self.version
        return pb.ReconstructBatchResponse(responses=responses)

    def GetModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.models += 1
        return pb.GetModelResponse(
            contract_version=CONTRACT_VERSION,
            provenance=pb.Provenance(model_name="fake", geometry_hash=self.geometry),
        )


@dataclass
class Rig:
    """A forwarder with everything it connects."""

    server: Server
    spool: Spool
    sink: PartSink
    forwarder: Forwarder
    folder: Path
    offered: list[EventId]

    def offer(self, batch: EventBatch) -> None:
        for event in batch:
            self.offered.append(EventId(event.run, event.event))
            payload = pack(Parcel(event, None, True))
            assert self.spool.offer(self.offered[-1], payload) is not None

    def until(self, condition: Callable[[], bool], timeout: float = 20) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, self.spool.accounting()
            self.forwarder.step(0.01)

    def work(self) -> None:
        """Until every event is answered or rejected."""
        self.until(lambda: self.left == len(self.sink))
        self.forwarder.publish()

    @property
    def left(self) -> int:
        accounting = self.spool.accounting()
        assert accounting.unaccounted == 0
        return accounting.spooled + accounting.in_memory

    def results(self) -> list[EventId]:
        return [i for part in parts_in(self.folder / "out") for i in ids_in(part.path)]

    def rejected(self) -> dict[EventId, str]:
        contents = read_contents(self.folder / "spool")
        return {rejection.id: rejection.reason for rejection in contents.rejected}


Start = Callable[..., Any]


@pytest.fixture
def rig(tmp_path: Path) -> Start:
    @contextmanager
    def start(parts: int = 1000, geometry: str | None = None, **settings: Any) -> Iterator[Rig]:
        server = Server()
        with (
            serving(server) as address,
            Client(address, timeout=5, retry=NO_RETRY) as client,
            Spool(tmp_path / "spool", SpoolSettings(handover=tmp_path)) as spool,
        ):
            sink = PartSink(tmp_path / "out", SinkSettings(part_events=parts), spool.acknowledge)
            forward = ForwardSettings(hold_seconds=0.05, longest_hold=0.1, **settings)
            forwarder = Forwarder(spool, client, sink, forward, lambda: geometry, Breaker(QUICK))
            yield Rig(server, spool, sink, forwarder, tmp_path, [])
            sink.close()

    return start


def of_run(run: int, count: int) -> EventBatch:
    batch = random_events(count, run)
    batch.run[:] = run
    return batch


def invalid(bad: set[int]) -> Callable[[list[tuple[int, int]]], Any]:
    def rule(ids: list[tuple[int, int]]) -> Any:
        if bad & {event for _, event in ids}:
            return rich(Code.INVALID_ARGUMENT, "event breaks the contract")
        return None

    return rule


def test_a_refused_event_is_rejected_with_its_reason_and_the_others_are_not(rig: Start) -> None:
    with rig() as it:
        it.server.rule = invalid({3, 17})
        it.offer(of_run(1, 40))
        it.work()
        assert sorted(it.results()) == [i for i in it.offered if i.event not in (3, 17)]
        assert set(it.rejected()) == {EventId(1, 3), EventId(1, 17)}
        assert "event breaks the contract" in it.rejected()[EventId(1, 3)]
        # In batches again afterwards.
        assert len(it.server.asked[-1]) > 1


def test_an_unreadable_event_is_rejected_without_being_sent(rig: Start) -> None:
    with rig() as it:
        it.spool.offer(EventId(1, 99), pack_unreadable("bank XNPH is of type INT"))
        it.spool.offer(EventId(1, 98), b"?")
        it.offer(of_run(1, 3))
        it.work()
        assert it.rejected()[EventId(1, 99)] == "bank XNPH is of type INT"
        assert "another version" in it.rejected()[EventId(1, 98)]
        assert {event for ids in it.server.asked for _, event in ids} == {0, 1, 2}


def test_a_server_that_is_away_costs_nothing_and_is_asked_for_one_event(rig: Start) -> None:
    with rig() as it:
        it.server.rule = lambda ids: (
            rich(Code.UNAVAILABLE, "away") if len(it.server.asked) <= 8 else None
        )
        it.offer(of_run(1, 50))
        it.until(lambda: it.forwarder.server.is_open)
        assert "away" in it.forwarder.server.reason
        assert it.left == 50
        it.work()
        assert it.forwarder.server.reason == ""
        assert sorted(it.results()) == it.offered
        assert it.rejected() == {}
        sizes = [len(ids) for ids in it.server.asked]
        assert sizes[QUICK.threshold : 9] == [1] * (9 - QUICK.threshold)
        assert max(sizes[9:]) > 1


def test_a_full_server_is_not_asked_before_it_says(rig: Start) -> None:
    with rig() as it:
        it.server.rule = lambda ids: (
            rich(Code.RESOURCE_EXHAUSTED, "full", retry_info(0.3))
            if len(it.server.asked) == 1
            else None
        )
        it.offer(of_run(1, 20))
        it.work()
        assert it.server.times[1] - it.server.times[0] >= 0.3
        assert sorted(it.results()) == it.offered


def test_slow_answers_make_batches_smaller(rig: Start) -> None:
    with rig(batch=16) as it:
        it.server.rule = lambda ids: rich(Code.DEADLINE_EXCEEDED, "late") if len(ids) > 2 else None
        it.offer(of_run(1, 30))
        while it.spool.watermarks.accepted < 30:
            time.sleep(0.005)
        it.work()
        sizes = [len(ids) for ids in it.server.asked]
        assert sizes[:3] == [16, 8, 4]
        assert sum(size for size in sizes if size <= 2) == 30
        assert sorted(it.results()) == it.offered
        assert it.rejected() == {}


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.OUT_OF_RANGE, Code.FAILED_PRECONDITION])
def test_a_run_that_is_not_known_yet_waits_and_others_go_on(
    rig: Start, code: grpc.StatusCode
) -> None:
    with rig() as it:
        unknown = {7}
        it.server.rule = lambda ids: rich(code, "no list") if ids[0][0] in unknown else None
        it.offer(of_run(7, 10))
        it.offer(of_run(8, 10))
        it.until(lambda: len(it.sink) == 10)
        it.forwarder.publish()
        assert {i.run for i in it.results()} == {8}
        assert (it.left, it.rejected()) == (10, {})
        unknown.clear()
        it.work()
        assert sorted(it.results()) == it.offered


def test_each_run_is_asked_for_by_itself(rig: Start) -> None:
    with rig() as it:
        for run in (1, 2, 3):
            it.offer(of_run(run, 5))
        it.work()
        assert all(len({run for run, _ in ids}) == 1 for ids in it.server.asked)
        # Who answers, and so the conditions, is asked anew with each run.
        assert it.server.models >= 3


def engine_failed(ids: list[tuple[int, int]]) -> Any:
    info = error_details_pb2.ErrorInfo(reason="ENGINE_FAILED", domain="xec.v1")
    return rich(Code.UNAVAILABLE, "engine failed", info)


@pytest.mark.parametrize(
    "failure",
    [lambda ids: rich(Code.INTERNAL, "broken"), engine_failed],
    ids=["internal", "engine"],
)
def test_an_event_that_the_server_fails_on_is_rejected_when_others_go_through(
    rig: Start, failure: Callable[..., Any]
) -> None:
    with rig() as it:
        it.server.rule = lambda ids: failure(ids) if (1, 4) in ids else None
        it.offer(of_run(1, 12))
        it.until(lambda: it.left == len(it.sink) + 1)
        for event in range(100, 103):  # the experiment goes on
            batch = of_run(1, 1)
            batch.event[:] = event
            it.offer(batch)
            it.until(lambda: it.left <= len(it.sink) + 1)
        it.work()
        assert set(it.rejected()) == {EventId(1, 4)}
        assert sorted(it.results()) == sorted(set(it.offered) - {EventId(1, 4)})


def test_a_server_that_fails_on_everything_loses_nothing(rig: Start) -> None:
    """Control of the test above: without others that go through, nobody is to blame."""
    with rig() as it:
        broken = True
        it.server.rule = lambda ids: rich(Code.INTERNAL, "broken") if broken else None
        it.offer(of_run(1, 3))
        it.until(lambda: Counter(map(tuple, it.server.asked))[((1, 0),)] > 5)
        assert it.rejected() == {}
        broken = False
        it.work()
        assert sorted(it.results()) == it.offered


def test_another_model_begins_another_part(rig: Start) -> None:
    with rig() as it:
        it.offer(of_run(1, 20))
        it.work()
        it.server.version = "2"
        batch = of_run(1, 20)
        batch.event[:] += 20
        it.offer(batch)
        it.work()
        assert it.forwarder.models == 1
        parts = [describe_results(part.path) for part in parts_in(it.folder / "out")]
        versions = [[p.model_version for p in part.provenances] for part in parts]
        assert versions == [["1"], ["2"]]
        assert sorted(it.results()) == it.offered


def test_a_model_of_another_geometry_ends_it_at_first_contact_only(rig: Start) -> None:
    with rig(geometry="a" * 64) as it:
        it.server.geometry = "b" * 64
        it.offer(of_run(1, 2))
        with pytest.raises(ModelError, match="geometry bbbbbbbbbbbb"):
            it.until(lambda: False)
        it.server.geometry = "a" * 64
        it.work()
        it.server.geometry = "b" * 64
        it.offer(of_run(2, 2))
        it.until(lambda: "geometry" in it.forwarder.server.reason)
        assert it.left == 2


def test_a_disk_that_refuses_results_costs_nothing(
    rig: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(parts=8) as it:
        _link_fails(monkeypatch, times=2)
        it.forwarder.output.policy = QUICK
        it.offer(of_run(1, 20))
        it.until(lambda: it.forwarder.output.failures == 1)
        assert "No space left" in it.forwarder.output.reason
        assert (it.left, it.results()) == (20, [])
        it.work()
        assert it.results() == it.offered


def test_acknowledging_before_the_result_is_durable_would_be_seen(
    rig: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with that bug the same disk loses events."""
    honest = PartSink.write

    def write(self: PartSink, answers: Any) -> None:
        self._on_durable([one.id for one in answers])
        honest(self, answers)

    monkeypatch.setattr(PartSink, "write", write)
    with rig(parts=8) as it:
        _link_fails(monkeypatch, times=2)
        it.forwarder.output.policy = QUICK
        it.offer(of_run(1, 20))
        it.until(lambda: it.left == 0)
        it.forwarder.publish()
        assert set(it.results()) < set(it.offered)


def _link_fails(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    import errno
    import os

    real, left = os.link, [times]

    def link(source: Any, target: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr("xec_client.daq.sink.os.link", link)
