"""The model in `model_repository/`, as a user gets it: whole, small, better than the baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xec.assembly import assemble, filled_npho
from xec.contract import INPUTS, MODEL_NAME
from xec.detector.geometry import parametric
from xec.engines.base import tensors_of
from xec.engines.onnx import OnnxEngine
from xec.event import EventBatch
from xec.io.root import open_events
from xec.io.root_columns import EventChunk
from xec.lineage import Provenance
from xec.recovery.neighbour_average import neighbour_average
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex
from xec_server.model.models import Models

ROOT = Path(__file__).parents[1]
REPOSITORY = ROOT / "model_repository"
SAMPLE = ROOT / "samples" / "synthetic.root"


@pytest.fixture(scope="module")
def engine() -> OnnxEngine:
    return OnnxEngine(REPOSITORY, geometry_hash=parametric().hash)


@pytest.fixture(scope="module")
def sample() -> EventChunk:
    with open_events(SAMPLE) as events:
        assert events.synthetic
        return next(iter(events.chunks(64)))


@pytest.fixture(scope="module")
def outputs(engine: OnnxEngine, sample: EventChunk) -> dict[str, np.ndarray]:
    return engine.infer(tensors_of(sample.events))


def test_it_is_at_most_ten_megabytes() -> None:
    assert (REPOSITORY / MODEL_NAME / "1" / "model.onnx").stat().st_size <= 10_000_000


def test_its_card_names_its_digest(engine: OnnxEngine) -> None:
    card = (REPOSITORY / MODEL_NAME / "README.md").read_text()
    assert engine.model.sha256 in card


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def test_dead_sensors_are_filled_better_than_by_the_baselines(sample, outputs) -> None:
    events: EventBatch = sample.events
    dead = ~events.npho_valid & np.isfinite(sample.npho_reference)
    truth = sample.npho_reference[dead]
    network = rms(outputs["npho_mean"][dead] - truth)
    average = neighbour_average(events.npho, events.npho_valid, parametric())
    vertex = conventional_vertex(events.npho, events.npho_valid, parametric())
    ratio = solid_angle_ratio(events.npho, events.npho_valid, vertex, parametric())
    assert network < 0.6 * rms(average[dead] - truth)
    assert network < rms(ratio[dead] - truth)


def test_pulls_of_the_sample_are_of_order_one(sample, outputs) -> None:
    truth = sample.events.truth
    assert truth is not None
    for name in ("energy", "uvw", "angle"):
        error = outputs[name] - getattr(truth, name).reshape(outputs[name].shape)
        inside = np.abs(error / outputs[f"{name}_sigma"]) < 3.0
        assert inside.mean() > 0.9, name


def test_live_sensors_are_passed_on_bit_for_bit(engine, sample, outputs) -> None:
    provenance = Provenance(MODEL_NAME, "1", engine.model.sha256, engine.model.geometry_hash)
    answers = assemble(sample.events, outputs, provenance, engine.model.interval_scale)
    for event, answer in zip(sample.events, answers, strict=True):
        filled = filled_npho(event, answer.recovered)
        live = event.npho_valid
        assert np.array_equal(filled[live], event.npho[live])
        assert np.array_equal(np.flatnonzero(~live), answer.recovered.channel)
        assert np.array_equal(filled[~live], answer.recovered.npho)


def test_the_reading_of_a_hidden_sensor_does_not_leak(engine, sample) -> None:
    tensors = tensors_of(sample.events[:4])
    other = dict(tensors)
    hidden = tensors["npho_valid"] == 0
    other["npho"] = np.where(hidden, np.float32(12345.0), tensors["npho"])
    first, second = engine.infer(tensors), engine.infer(other)
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name


@pytest.mark.parametrize("channel", [0, 2000, 4150, 4320, 4500, 4600, 4700, 4750])
def test_a_single_live_sensor_without_light_has_a_finite_answer(
    engine: OnnxEngine, channel: int
) -> None:
    """The least that the contract allows: nothing to divide by."""
    inputs = {t.name: np.zeros((1, t.width), dtype=t.dtype) for t in INPUTS}
    inputs["npho_valid"][0, channel] = 1
    for name, values in engine.infer(inputs).items():
        assert np.isfinite(values).all(), name


async def test_to_reload_it_changes_nothing(engine: OnnxEngine) -> None:
    models = Models(engine, lambda _: OnnxEngine(REPOSITORY))
    before = models.current.model
    assert await models.swap() is before
    assert (models.swaps, models.in_use) == (0, 1)
