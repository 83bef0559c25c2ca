"""`xec reconstruct` with a server that fails: one sentence, and no half a file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from support_client import FaultyServicer, rich, serving
from support_reconstruct import (
    COUNT,
    GEOMETRY,
    Run,
    assert_refused,
    command_line,
    left_behind,
    write_events,
)
from xec.event import EventBatch
from xec.wire.v1 import reconstruction_pb2 as pb


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def source(tmp_path: Path, events: Callable[..., EventBatch]) -> Path:
    return write_events(tmp_path / "in.root", events(COUNT))


def stub_description(_: Any) -> Any:
    return pb.GetModelResponse(
        contract_version="1", provenance=pb.Provenance(geometry_hash=GEOMETRY)
    )


def test_a_server_gone_midway_leaves_nothing(run: Run, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    servicer = FaultyServicer()
    # The first call asks for the model, then three batches are answered.
    servicer.script = [stub_description] + [None] * 3
    servicer.script += [rich(grpc.StatusCode.UNAVAILABLE, "draining")] * 50
    with serving(servicer) as address:
        arguments = ("--server", address, "--batch-size", 8, "--timeout", 5)
        outcome = run(source, *arguments, "--out", out)
    assert_refused(outcome, 7, address)
    assert left_behind(tmp_path) == set()


def test_a_failure_does_not_wait_for_the_other_batches(
    run: Run, source: Path, tmp_path: Path
) -> None:
    hanging, release, finished = threading.Event(), threading.Event(), threading.Event()

    def fail_or_hang(request: Any) -> Any:
        if request.events[0].event == 0:
            assert hanging.wait(30)
        else:
            hanging.set()
            release.wait(30)
            finished.set()
        return pb.ReconstructBatchResponse()  # answers nothing: a defect

    servicer = FaultyServicer()
    servicer.script = [stub_description, fail_or_hang, fail_or_hang]
    with serving(servicer) as address:
        outcome = run(
            source,
            *("--server", address, "--batch-size", 40, "--in-flight", 2),
            *("--out", tmp_path / "out.parquet"),
        )
        early = not finished.is_set()
        release.set()
    assert_refused(outcome, 7, "not the")
    assert early


def test_no_server(run: Run, source: Path, tmp_path: Path) -> None:
    with serving(FaultyServicer()) as address:
        pass
    out = tmp_path / "out.parquet"
    outcome = run(source, "--server", address, "--out", out, "--timeout", 0.3)
    assert_refused(outcome, 7, address)
    assert left_behind(tmp_path) == set()


def test_a_server_of_another_contract(run: Run, source: Path, tmp_path: Path) -> None:
    servicer = FaultyServicer()
    servicer.script = [lambda _: pb.GetModelResponse(contract_version="77")]
    with serving(servicer) as address:
        outcome = run(source, "--server", address, "--out", tmp_path / "out.parquet")
    assert_refused(outcome, 4, "77", address)
    assert len(servicer.requests) == 1
