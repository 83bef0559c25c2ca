"""Triton as an engine, against a real one: right answers, refusals by cause, nothing unchecked."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support_gateway import (
    QUICK,
    RealTriton,
    config_text,
    real_triton,
    slow_triton_repository,
    stub_triton_repository,
    vouched,
)
from xec.contract import MODEL_NAME, OUTPUTS
from xec.engines.base import tensors_of
from xec.engines.golden import GOLDEN_FILE, Golden, golden_bytes, golden_of
from xec.engines.onnx import OnnxEngine
from xec.engines.onnx_bytes import metadata_of
from xec.engines.repository import read_model
from xec.engines.triton import CallSettings, TritonEngine
from xec.errors import (
    EngineAway,
    EngineBusy,
    EngineError,
    EngineTooLate,
    ModelError,
    UsageError,
)
from xec.event import EventBatch

Events = Callable[..., EventBatch]
BOUNDED = "max_queue_delay_microseconds: 0"
SMALL_QUEUE = f"{BOUNDED}, default_queue_policy {{ max_queue_size: 2 }}"
SHORT_QUEUE = (
    f"{BOUNDED}, default_queue_policy "
    "{ default_timeout_microseconds: 50000, timeout_action: REJECT }"
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub_triton_repository(tmp_path_factory.mktemp("stub"))


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[RealTriton]:
    """Shared by the tests that leave it as it is."""
    with real_triton(repository) as triton:
        yield triton


@pytest.fixture
def engine(triton: RealTriton, repository: Path) -> Iterator[TritonEngine]:
    engine = TritonEngine(triton.address, repository, QUICK)
    yield engine
    engine.close()


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def outcome(engine: TritonEngine, inputs: Any, seconds: float) -> str:
    try:
        engine.infer_within(inputs, seconds)
    except EngineError as error:
        return type(error).__name__
    return "answered"


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 64, 65])
def test_answers_are_those_of_the_graph(
    count: int, engine: TritonEngine, events: Events, answers: Any
) -> None:
    """65 events are more than one request holds."""
    batch = events(count)
    outputs = engine.infer(tensors_of(batch))
    expected = answers(batch)
    for tensor in OUTPUTS:
        assert outputs[tensor.name].shape == (count, tensor.width)
        np.testing.assert_allclose(
            outputs[tensor.name], expected[tensor.name], rtol=1e-4, atol=1e-4, err_msg=tensor.name
        )


def test_callers_side_by_side_get_their_own_answers(
    engine: TritonEngine, events: Events, answers: Any
) -> None:
    batch = events(24)
    expected = answers(batch)["energy"]
    with ThreadPoolExecutor(16) as threads:
        rows = [tensors_of(batch[row : row + 1]) for row in range(24)] * 5
        got = [outputs["energy"][0, 0] for outputs in threads.map(engine.infer, rows)]
    np.testing.assert_allclose(got, np.tile(expected[:, 0], 5), rtol=1e-4)
    assert len(np.unique(got)) == 24


def test_identity_is_the_embedded_engines(engine: TritonEngine, repository: Path) -> None:
    mine, embedded = engine.model, OnnxEngine(repository).model
    assert (mine.engine, embedded.engine) == ("triton", "onnx")
    for name in ("name", "version", "sha256", "geometry_hash", "metadata", "interval_scale"):
        assert getattr(mine, name) == getattr(embedded, name), name


def test_metadata_is_read_without_onnx_runtime(repository: Path) -> None:
    content = read_model(repository).content
    assert metadata_of(content) == OnnxEngine(repository).model.metadata
    with pytest.raises(ModelError, match="not those of an ONNX model"):
        metadata_of(content[:-1])


def test_a_closed_engine_says_so(triton: RealTriton, repository: Path, events: Events) -> None:
    engine = TritonEngine(triton.address, repository, QUICK)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(tensors_of(events(1)))


# --- whom it trusts ------------------------------------------------------------------------------


def refused(triton: RealTriton, repository: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        TritonEngine(triton.address, repository, QUICK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "name"),
    [({"model_version": "stub-2"}, "sha256"), ({"geometry_hash": "8" * 64}, "geometry_hash")],
)
def test_another_model_is_refused(
    metadata: dict[str, str], name: str, triton: RealTriton, tmp_path: Path
) -> None:
    refused(
        triton, stub_triton_repository(tmp_path, metadata), f"its {name} is .* there and .* here"
    )


def test_wrong_answers_are_refused(triton: RealTriton, tmp_path: Path) -> None:
    """The model is the same to the bit; only what it is known to answer differs."""
    repository = stub_triton_repository(tmp_path)
    path = repository / MODEL_NAME / "1" / GOLDEN_FILE
    golden = golden_of(path.read_bytes(), path)
    shifted = {**golden.outputs, "uvw": golden.outputs["uvw"] + np.float32(0.1)}
    vouched(path.parent, path.name, golden_bytes(Golden(golden.inputs, shifted)))
    refused(triton, repository, "answers the model's golden events wrongly: uvw differs")


def test_without_golden_events_nothing_is_trusted(triton: RealTriton, tmp_path: Path) -> None:
    repository = stub_triton_repository(tmp_path)
    version = repository / MODEL_NAME / "1"
    (version / GOLDEN_FILE).unlink()
    manifest = json.loads((version / "manifest.json").read_text())
    del manifest["files"][GOLDEN_FILE]
    (version / "manifest.json").write_text(json.dumps(manifest))
    refused(triton, repository, "without golden events nobody knows")


def test_a_configuration_that_names_no_digest_is_refused(tmp_path: Path) -> None:
    here = stub_triton_repository(tmp_path / "here")
    there = stub_triton_repository(tmp_path / "there")
    model = OnnxEngine(here).model
    text = config_text(model).replace('key: "sha256"', 'key: "model_version"')
    (there / MODEL_NAME / "config.pbtxt").write_text(text)
    with real_triton(there) as triton:
        refused(triton, here, "its sha256 is not told there")


def test_a_version_that_triton_does_not_have_is_waited_for(
    triton: RealTriton, tmp_path: Path, events: Events
) -> None:
    repository = stub_triton_repository(tmp_path)
    (repository / MODEL_NAME / "1").rename(repository / MODEL_NAME / "2")
    engine = TritonEngine(triton.address, repository, QUICK)
    try:
        with pytest.raises(EngineAway, match="no Triton with reconstruct version 2"):
            engine.infer(tensors_of(events(1)))
    finally:
        engine.close()


def test_a_triton_that_comes_later_is_found(repository: Path, events: Events) -> None:
    heard = []
    with real_triton(repository) as triton:
        triton.kill()
        engine = TritonEngine(triton.address, repository, QUICK)
        try:
            engine.listen(heard.append)
            assert outcome(engine, tensors_of(events(1)), 5) == "EngineAway"
            triton.restart(repository)
            until(lambda: engine.is_ready, "never ready")
            assert outcome(engine, tensors_of(events(1)), 5) == "answered"
        finally:
            engine.close()
    assert heard == [False, True]


# --- refusals by cause ---------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-1, 0, 1e-4])
def test_too_little_time(seconds: float, engine: TritonEngine, events: Events) -> None:
    with pytest.raises(EngineTooLate):
        engine.infer_within(tensors_of(events(64)), seconds)
    assert outcome(engine, tensors_of(events(1)), 5) == "answered"


@pytest.mark.parametrize("policy", [SMALL_QUEUE, SHORT_QUEUE])
def test_a_queue_that_is_full_or_too_slow_is_busy_not_away(
    policy: str, tmp_path: Path, events: Events
) -> None:
    """A model that takes its time, so that requests wait in Triton."""
    repository = slow_triton_repository(tmp_path, batching=policy)
    inputs = tensors_of(events(64))  # none of them shares a run with another
    with real_triton(repository) as triton:
        engine = TritonEngine(triton.address, repository, CallSettings())
        with ThreadPoolExecutor(12) as threads:
            found = list(threads.map(lambda _: outcome(engine, inputs, 20), range(12)))
        assert engine.is_ready
        engine.close()
    assert set(found) == {"answered", "EngineBusy"}


def test_busy_says_when_to_come_back() -> None:
    assert EngineBusy("full", 0.2).retry_after == 0.2


def test_a_dead_worker_is_away_although_triton_says_that_it_is_ready(
    repository: Path, events: Events
) -> None:
    inputs = tensors_of(events(1))
    with real_triton(repository) as triton:
        engine = TritonEngine(triton.address, repository, QUICK)
        os.kill(triton.worker, signal.SIGKILL)
        assert outcome(engine, inputs, 10) == "EngineAway"
        assert not engine.is_ready
        assert engine.is_live()
        time.sleep(5 * QUICK.look_every)
        assert not engine.is_ready  # the golden events fail, too
        assert "is not healthy" in engine.reason
        engine.close()


def test_a_worker_that_hangs_is_found_by_golden_events(repository: Path) -> None:
    """Nobody calls, and the server itself lives: only the golden events can tell."""
    settings = CallSettings(patience=0.5, model_patience=0.5, look_every=0.1, model_every=0.3)
    with real_triton(repository) as triton:
        engine = TritonEngine(triton.address, repository, settings)
        worker = triton.worker
        os.kill(worker, signal.SIGSTOP)
        until(lambda: not engine.is_ready, "never noticed")
        assert engine.is_live()
        os.kill(worker, signal.SIGCONT)
        until(lambda: engine.is_ready, "never recovered")
        engine.close()


def test_nothing_listens(repository: Path, events: Events) -> None:
    engine = TritonEngine("127.0.0.1:1", repository, QUICK)
    try:
        with pytest.raises(EngineAway, match=r"There is no Triton .*: nothing listens there"):
            engine.infer(tensors_of(events(1)))
    finally:
        engine.close()


@pytest.mark.parametrize("settings", [{"largest_batch": 0}, {"timeout": 0}, {"patience": -1}])
def test_impossible_settings(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        CallSettings(**settings)  # type: ignore[arg-type]
