"""The embedded engine on a real graph: right answers, whatever the threads and batches."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from support_engine import TWO, Events
from xec.contract import OUTPUTS
from xec.engines.base import tensors_of
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.engines.repository import read_model
from xec.errors import EngineError, UsageError


@pytest.fixture
def engine(stub_repository: Path) -> OnnxEngine:
    return OnnxEngine(stub_repository, TWO)


@pytest.mark.parametrize("count", [1, 3, 4, 11])
def test_answers_are_those_of_the_graph(
    count: int, engine: OnnxEngine, events: Events, answers: Any
) -> None:
    """Against the same functions in NumPy float64; 4760-term float32 sums carry 1e-5."""
    batch = events(count)
    outputs = engine.infer(tensors_of(batch))
    expected = answers(batch)
    assert outputs.keys() == {tensor.name for tensor in OUTPUTS}
    for tensor in OUTPUTS:
        assert outputs[tensor.name].shape == (count, tensor.width)
        assert outputs[tensor.name].dtype == np.float32
        np.testing.assert_allclose(
            outputs[tensor.name], expected[tensor.name], rtol=1e-4, atol=1e-4, err_msg=tensor.name
        )


def test_many_threads_get_their_own_answers(
    engine: OnnxEngine, events: Events, answers: Any
) -> None:
    batch = events(24)
    expected = answers(batch)["energy"]
    with ThreadPoolExecutor(8) as threads:
        rows = [tensors_of(batch[row : row + 1]) for row in range(24)] * 5
        got = [outputs["energy"][0, 0] for outputs in threads.map(engine.infer, rows)]
    np.testing.assert_allclose(got, np.tile(expected[:, 0], 5), rtol=1e-4)
    assert len(np.unique(got)) == 24


def test_several_threads_per_session_answer_the_same(
    stub_repository: Path, engine: OnnxEngine, events: Events
) -> None:
    settings = OnnxSettings(sessions=2, threads_per_session=2)
    inputs = tensors_of(events(5))
    other = OnnxEngine(stub_repository, settings).infer(inputs)
    for name, values in engine.infer(inputs).items():
        np.testing.assert_allclose(other[name], values, rtol=1e-5, err_msg=name)


def test_one_event_per_call_makes_answers_independent_of_the_others(
    stub_repository: Path, events: Events
) -> None:
    engine = OnnxEngine(stub_repository, OnnxSettings(sessions=2, largest_batch=1))
    batch = events(9)
    together = engine.infer(tensors_of(batch))
    for row in range(9):
        alone = engine.infer(tensors_of(batch[row : row + 1]))
        for name, values in alone.items():
            assert values[0].tobytes() == together[name][row].tobytes(), name


def test_identity_comes_from_the_model(stub_repository: Path, engine: OnnxEngine) -> None:
    model = engine.model
    assert (model.name, model.version) == ("reconstruct", "stub-1")
    assert model.sha256 == read_model(stub_repository).sha256
    assert model.interval_scale == {"energy": 1.5, "uvw": 0.5}
    assert model.metadata["preset"] == "stub"


def test_a_closed_engine_says_so(stub_repository: Path, events: Events) -> None:
    engine = OnnxEngine(stub_repository, TWO)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(tensors_of(events(1)))


def test_wrong_tensors_are_an_engine_error(engine: OnnxEngine, events: Events) -> None:
    inputs = {name: values[:, :-1] for name, values in tensors_of(events(1)).items()}
    with pytest.raises(EngineError, match="Got: 4759 Expected: 4760"):
        engine.infer(inputs)


@pytest.mark.parametrize(
    "settings",
    [
        {"sessions": -1},
        {"threads_per_session": 0},
        {"largest_batch": 0},
    ],
)
def test_impossible_settings(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        OnnxSettings(**settings)


def test_buckets_reach_the_largest_batch() -> None:
    assert OnnxSettings(largest_batch=8).buckets == (1, 2, 4, 8)
    assert OnnxSettings(largest_batch=6).buckets == (1, 2, 4, 6)
    assert OnnxSettings(largest_batch=1).buckets == (1,)


def test_settings_use_every_core_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = random.Random(0).sample(range(64), 12)
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(cores))
    assert OnnxSettings().calls_at_once == 12
    assert OnnxSettings(threads_per_session=5).calls_at_once == 2
    assert OnnxSettings(threads_per_session=99).calls_at_once == 1
    assert OnnxSettings(sessions=3).calls_at_once == 3


def test_the_stub_is_a_valid_model(stub_repository: Path) -> None:
    onnx.checker.check_model(onnx.load_from_string(read_model(stub_repository).content))


def test_the_shipped_model_loads_and_is_reproducible(events: Events) -> None:
    repository = Path(__file__).parents[1] / "model_repository"
    stored = read_model(repository)
    assert len(stored.content) <= 10_000_000
    engine = OnnxEngine(repository, OnnxSettings(sessions=1, largest_batch=1))
    inputs = tensors_of(events(3))
    backwards = {name: np.ascontiguousarray(values[::-1]) for name, values in inputs.items()}
    ahead, back = engine.infer(inputs), engine.infer(backwards)
    for name, values in ahead.items():
        assert np.isfinite(values).all(), name
        assert values.tobytes() == back[name][::-1].tobytes(), name
