"""What a real Triton answers: the same as the embedded engine, whoever asks beside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from support_triton import (
    SHIPPED,
    Served,
    copy_of,
    golden_by,
    needs_triton,
    rows,
    sample,
    uniform_events,
)
from xec.contract import INPUTS, OUTPUTS
from xec.engines.golden import GOLDEN_FILE, Golden, golden_bytes
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import EngineError, ModelError
from xec.lineage import sha256_of_bytes
from xec_server.triton.probe import check_answers

pytestmark = needs_triton
Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def events() -> dict[str, np.ndarray]:
    inputs = sample(64)
    assert len(inputs["npho"]) == 64
    return inputs


@pytest.fixture(scope="module")
def engine() -> Iterator[OnnxEngine]:
    """One event per call: what the answer to an event alone is."""
    engine = OnnxEngine(SHIPPED, OnnxSettings(sessions=1, largest_batch=1))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(engine: OnnxEngine, events: Arrays) -> Golden:
    return golden_by(engine, events)


def part(golden: Golden, chosen: slice) -> Golden:
    return Golden(rows(golden.inputs, chosen), rows(golden.outputs, chosen))


def equal(a: Arrays, b: Arrays) -> bool:
    assert a.keys() == b.keys() == {tensor.name for tensor in OUTPUTS}
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("count", [1, 7, 64])
def test_answers_are_those_of_the_embedded_engine(
    served: Served, expected: Golden, count: int
) -> None:
    wanted = part(expected, slice(64 - count, 64))
    answers = served.ask("reconstruct", wanted.inputs)
    assert {name: values.dtype for name, values in answers.items()} == {
        tensor.name: np.dtype("float32") for tensor in OUTPUTS
    }
    wanted.check(answers, "Triton", 2e-5)


def test_another_event_would_be_noticed(served: Served, expected: Golden) -> None:
    answers = served.ask("reconstruct", rows(expected.inputs, slice(0, 1)))
    with pytest.raises(ModelError, match=r"Triton answers .* wrongly"):
        part(expected, slice(1, 2)).check(answers, "Triton")


def executions(served: Served, model: str) -> tuple[int, int]:
    """Events answered, and calls of the backend that it took, since the start."""
    (entry,) = served.client.get_inference_statistics(model).model_stats
    return entry.inference_count, entry.execution_count


def settled(served: Served, model: str) -> tuple[int, int]:
    """The same once it stays: Triton counts after it answers, what was asked before included."""
    seen, since = executions(served, model), time.monotonic()
    while time.monotonic() < since + 0.5:
        time.sleep(0.02)
        now = executions(served, model)
        if now != seen:
            seen, since = now, time.monotonic()
    return seen


def executed_since(
    served: Served, model: str, before: tuple[int, int], events: int
) -> tuple[int, int]:
    """The same since then, once so many events are counted: Triton counts after it answers."""
    end = time.monotonic() + 60
    while True:
        now = executions(served, model)
        since = now[0] - before[0], now[1] - before[1]
        if since[0] >= events or time.monotonic() > end:
            return since
        time.sleep(0.01)


def ask_at_once(served: Served, model: str, events: Arrays, order: list[int]) -> list[Arrays]:
    """Each event in a request of its own, 16 at a time."""
    with ThreadPoolExecutor(16) as pool:
        requests = [rows(events, slice(k, k + 1)) for k in order]
        return list(pool.map(lambda one: served.ask(model, one), requests))


def test_single_requests_are_batched_and_not_mixed_up(served: Served, expected: Golden) -> None:
    before = settled(served, "reconstruct")
    answers = ask_at_once(served, "reconstruct", expected.inputs, list(range(64)))
    events, calls = executed_since(served, "reconstruct", before, 64)
    assert events == 64
    assert 1 <= calls <= 32
    for k, answer in enumerate(answers):
        part(expected, slice(k, k + 1)).check(answer, f"Triton (event {k})", 2e-5)


def test_one_after_the_other_are_not_batched(served: Served, events: Arrays) -> None:
    """The negative control of the test above."""
    before = settled(served, "reconstruct")
    for k in range(4):
        served.ask("reconstruct", rows(events, slice(k, k + 1)))
    assert executed_since(served, "reconstruct", before, 4) == (4, 4)


def test_reproducible_answers_do_not_depend_on_batch_mates(
    served: Served, expected: Golden
) -> None:
    """Bit for bit those of an event alone: together, shuffled, and among others' requests."""
    assert equal(served.ask("steady", expected.inputs), expected.outputs)
    order = np.random.default_rng(5).permutation(64)
    shuffled = served.ask("steady", rows(expected.inputs, order))
    assert equal(shuffled, rows(expected.outputs, order))
    before = settled(served, "steady")
    single = ask_at_once(served, "steady", expected.inputs, list(range(32)))
    events, calls = executed_since(served, "steady", before, 32)
    assert calls < events == 32
    for k, answer in enumerate(single):
        assert equal(answer, rows(expected.outputs, slice(k, k + 1)))


def test_the_comparison_of_bits_sees_one() -> None:
    a = {tensor.name: np.ones((2, tensor.width), "f4") for tensor in OUTPUTS}
    b = {name: values.copy() for name, values in a.items()}
    assert equal(a, b)
    b["uvw"][1, 2] = np.nextafter(np.float32(1), np.float32(2))
    assert not equal(a, b)


def ask_raw(served: Served, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Zeros of these shapes, without the checks of our own client."""
    kinds = {"float32": "FP32", "uint8": "UINT8"}
    tensors = []
    for tensor in INPUTS:
        if tensor.name in shapes:
            values = np.zeros(shapes[tensor.name], dtype=tensor.dtype)
            entry = triton.InferInput(tensor.name, list(values.shape), kinds[tensor.dtype])
            entry.set_data_from_numpy(values)
            tensors.append(entry)
    served.client.infer("reconstruct", tensors, client_timeout=20)


RIGHT = {tensor.name: (2, tensor.width) for tensor in INPUTS}


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({**RIGHT, "npho": (2, 4759)}, "unexpected shape for input 'npho'"),
        ({**RIGHT, "time": (1, 4760)}, "batch size"),
        (dict.fromkeys(RIGHT, (65, 4760)), "batch-size must be <= 64"),
        (dict.fromkeys(RIGHT, (0, 4760)), "input byte size mismatch"),
        ({"npho": (2, 4760)}, "expected 4 inputs but got 1"),
    ],
    ids=["width", "disagreeing", "too many", "none", "missing"],
)
def test_bad_shapes_are_answered_with_an_error(
    served: Served, expected: Golden, shapes: dict[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(triton.InferenceServerException, match=reason):
        ask_raw(served, shapes)
    one = part(expected, slice(0, 1))
    one.check(served.ask("reconstruct", one.inputs), "Triton, afterwards", 2e-5)


def test_right_shapes_are_answered(served: Served) -> None:
    """The negative control of the test above."""
    ask_raw(served, RIGHT)


def test_a_failing_computation_is_answered_with_an_error(served: Served) -> None:
    """That request, not those beside it; and the process that computes lives on."""
    requests = [uniform_events(1) for _ in range(8)]
    requests[3]["npho"] = requests[3]["npho"] + np.float32(1e6)

    def outcome(inputs: Arrays) -> Arrays | EngineError:
        try:
            return served.ask("fragile", inputs)
        except EngineError as error:
            return error

    before = settled(served, "fragile")
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, requests))
    assert [type(found) for found in outcomes] == [dict] * 3 + [EngineError] + [dict] * 4
    assert "Triton fails to run fragile: " in str(outcomes[3])
    assert "indices element out of data bounds" in str(outcomes[3])
    assert executed_since(served, "fragile", before, 7)[1] < 7
    assert isinstance(outcome(requests[0]), dict)


def test_golden_events_are_answered(served: Served) -> None:
    assert (served.repository / "reconstruct" / "1" / GOLDEN_FILE).exists()
    check_answers(served.client, served.repository, "reconstruct")


def test_golden_events_of_a_variant_in_requests_that_fit(served: Served) -> None:
    """The model has some of the contract's outputs, and takes fewer events than are golden."""
    check_answers(served.client, served.repository, "half")


def test_wrong_golden_events_are_noticed(served: Served, expected: Golden, tmp_path: Path) -> None:
    copy = copy_of(served.repository, tmp_path)
    wrong = {name: values.copy() for name, values in expected.outputs.items()}
    wrong["energy"][3] *= 1.01
    content = golden_bytes(Golden(expected.inputs, wrong))
    folder = copy / "reconstruct" / "1"
    (folder / GOLDEN_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="its sha256 is not the manifest's"):
        check_answers(served.client, copy, "reconstruct")
    manifest = (folder / "manifest.json").read_text()
    old = sha256_of_bytes((served.repository / "reconstruct" / "1" / GOLDEN_FILE).read_bytes())
    (folder / "manifest.json").write_text(manifest.replace(old, sha256_of_bytes(content)))
    with pytest.raises(ModelError, match=r"Triton's reconstruct answers .* energy differs by"):
        check_answers(served.client, copy, "reconstruct")


def test_a_model_that_is_not_served_is_named(served: Served) -> None:
    with pytest.raises(EngineError, match="Triton does not serve inpaint"):
        check_answers(served.client, served.repository, "inpaint")
