"""Flags of an answer: foreign events, dead light, and what is served in a hole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support_flags import (
    DEAD_LIGHT,
    GEOMETRY,
    WHERE,
    answers_of,
    events_of,
    hole,
    model,
    simulated,
)
from test_conformal import sample
from xec.answer import answer, answer_one
from xec.assembly import assemble_one
from xec.conditions.dead_list import DeadList
from xec.detector.channels import INNER_GRID, N_CHANNELS, N_MPPC
from xec.engines.base import provenance_of, tensors_of
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import EngineError, ModelError
from xec.event import Event, EventBatch, Flag, RecoveryStatus
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex
from xec.reliability.dead_light import blind, hidden_share, holes
from xec.reliability.domain import FEATURES, Domain
from xec.reliability.record import Reliability, reliability_of
from xec_training.breakdown import threshold_of
from xec_training.conformal import fit_intervals

# Dead light


def test_blind_sensors_have_no_live_neighbour() -> None:
    rng = np.random.default_rng(2)
    dead = rng.random(N_CHANNELS) < 0.6
    found, around = blind(~dead).reshape(93, 44), holes(~dead)[:N_MPPC].reshape(93, 44)
    grid = dead[:N_MPPC].reshape(93, 44)
    slow = np.zeros_like(grid)
    for r in range(93):
        for c in range(44):
            slow[r, c] = grid[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].all()
    np.testing.assert_array_equal(found, slow)
    for r in range(93):
        for c in range(44):
            touched = slow[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].any()
            assert around[r, c] == (grid[r, c] and touched)
    assert not holes(~dead)[N_MPPC:].any()


def test_hidden_light_is_the_share_on_blind_sensors() -> None:
    mean = np.random.default_rng(1).exponential(10, N_CHANNELS).astype(np.float32)
    assert hidden_share(~hole(slice(20, 22), slice(5, 7)), mean) == 0.0  # 2 x 2: all are seen
    dead = hole(slice(20, 25), slice(5, 10))
    inside = INNER_GRID[21:24, 6:9].ravel()
    expected = mean[inside].sum(dtype=np.float64) / mean.sum(dtype=np.float64)
    assert hidden_share(~dead, mean) == pytest.approx(expected, rel=1e-6)
    assert hidden_share(~dead, np.zeros_like(mean)) == 0.0


def test_the_threshold_makes_the_fewest_mistakes() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        share = rng.random(30)
        broken = rng.random(30) < share
        found = threshold_of(share, broken)
        slow = [(broken & (share <= t)).sum() + (~broken & (share > t)).sum() for t in share]
        nothing = (~broken).sum()  # trusted is none of them
        if found is None:
            assert broken.sum() <= min(*slow, nothing)
        else:
            mistakes = (broken & (share <= found)).sum() + (~broken & (share > found)).sum()
            assert mistakes == min(*slow, nothing, broken.sum())
    assert threshold_of(share, np.zeros(30, dtype=np.bool_)) is None


# The answer


@pytest.fixture(scope="module")
def dark() -> tuple[EventBatch, dict[str, np.ndarray]]:
    """An event without a hole, and one with its light in a hole."""
    batch = simulated(2, 8)
    outputs = answers_of(batch)
    brightest = int(batch.light[1, :N_MPPC].argmax())
    r, c = divmod(brightest, 44)
    more = np.zeros((2, N_CHANNELS), dtype=np.bool_)
    more[1] = hole(slice(max(r - 4, 0), r + 5), slice(max(c - 4, 0), c + 5))
    return events_of(batch, more), outputs


def test_a_hole_is_filled_by_solid_angles(dark: tuple[EventBatch, Any]) -> None:
    events, outputs = dark
    plain, found = (
        answer(events, outputs, WHERE, known) for known in (model(), model(dead_light=DEAD_LIGHT))
    )
    assert [bool(a.flags & Flag.TOO_MUCH_DEAD_LIGHT) for a in found] == [False, True]
    assert not any(a.flags & Flag.TOO_MUCH_DEAD_LIGHT for a in plain)
    for name in ("npho", "npho_sigma", "time", "time_sigma", "status"):
        np.testing.assert_array_equal(
            getattr(found[0].recovered, name), getattr(plain[0].recovered, name)
        )
    event, ours = list(events)[1], found[1].recovered
    npho, valid = events.npho[1:], events.npho_valid[1:]
    conventional = solid_angle_ratio(
        npho, valid, conventional_vertex(npho, valid, GEOMETRY), GEOMETRY
    )[0].astype(np.float32)
    refused = holes(event.npho_valid)[ours.channel]
    assert 40 < refused.sum() < len(ours)
    np.testing.assert_array_equal(ours.npho[refused], conventional[ours.channel][refused])
    np.testing.assert_array_equal(ours.status == RecoveryStatus.BASELINE, refused)
    sigma = np.interp(ours.npho[refused], DEAD_LIGHT.light, DEAD_LIGHT.sigma)
    low = ours.npho[refused] < 1000
    np.testing.assert_allclose(ours.npho_sigma[refused][low], sigma[low], rtol=1e-6)
    assert (ours.time_sigma[refused] == np.float32(1.5)).all()
    theirs = plain[1].recovered
    for name in ("npho", "npho_sigma", "time", "time_sigma", "status"):
        np.testing.assert_array_equal(
            getattr(ours, name)[~refused], getattr(theirs, name)[~refused]
        )
    assert all(getattr(ours, f).dtype == getattr(theirs, f).dtype for f in ("npho", "status"))


def test_only_dead_sensors_are_recovered(dark: tuple[EventBatch, Any]) -> None:
    events, outputs = dark
    for event, found in zip(
        events, answer(events, outputs, WHERE, model(dead_light=DEAD_LIGHT)), strict=True
    ):
        np.testing.assert_array_equal(found.recovered.channel, np.flatnonzero(~event.npho_valid))


def test_a_hole_around_everything_keeps_what_the_network_says() -> None:
    """Of a face without live sensors the solid-angle method knows nothing."""
    batch = simulated(1, 9)
    more = np.arange(N_CHANNELS)[None] < N_MPPC
    events, outputs = events_of(batch, more), answers_of(batch)
    (found,) = answer(events, outputs, WHERE, model(dead_light=DEAD_LIGHT))
    assert found.flags & Flag.TOO_MUCH_DEAD_LIGHT
    assert (found.recovered.status == RecoveryStatus.INPAINTED).all()
    assert np.isfinite(found.recovered.npho).all()


def test_the_sigma_grows_with_the_light_beyond_the_last_knot() -> None:
    found = DEAD_LIGHT.sigma_of(np.array([-5.0, 5.0, 1000.0, 4000.0]))
    np.testing.assert_allclose(found, [2.0, 3.5, 300.0, 1200.0])


def test_intervals_come_from_the_bin_of_the_predicted_depth() -> None:
    intervals = fit_intervals(sample(5000, 1), 0)
    batch = simulated(4, 3)
    outputs = answers_of(batch)
    for row, event in enumerate(events_of(batch)):
        found = answer_one(event, outputs, row, WHERE, model(intervals=intervals))
        scale = intervals.gamma_scale("uvw", float(outputs["uvw"][row, 2]))
        assert scale is not None
        half = outputs["uvw_sigma"][row] * scale.astype(np.float32)
        np.testing.assert_array_equal(found.uvw.high, outputs["uvw"][row] + half)
        old = answer_one(event, outputs, row, WHERE, model())
        np.testing.assert_allclose(old.energy.high - old.energy.mean, 1.5, rtol=1e-4)


def test_a_model_of_another_geometry_answers_without_flags(dark: tuple[EventBatch, Any]) -> None:
    events, outputs = dark
    foreign = Domain(np.full(5, -9e9), np.ones(5), 0.0)  # calls everything foreign
    known = model(domain=foreign, dead_light=DEAD_LIGHT)
    assert all(a.flags & Flag.OUTSIDE_DOMAIN for a in answer(events, outputs, WHERE, known))
    other = replace(known, geometry_hash="7" * 64)
    for row, event in enumerate(events):
        bare = assemble_one(event, outputs, row, WHERE, {"energy": 1.5})
        found = answer_one(event, outputs, row, WHERE, other)
        assert found.flags == bare.flags
        np.testing.assert_array_equal(found.recovered.npho, bare.recovered.npho)


def test_an_answer_that_is_no_number_is_refused(dark: tuple[EventBatch, Any]) -> None:
    events, outputs = dark
    broken = {**outputs, "energy": outputs["energy"] * np.float32(np.nan)}
    with pytest.raises(EngineError, match="event 0 of run 0"):
        answer(events, broken, WHERE, model())


# The record


def record() -> Reliability:
    rng = np.random.default_rng(1)
    return Reliability(
        fit_intervals(sample(300, 1), 0),
        Domain.fit(rng.normal(size=(200, len(FEATURES)))),
        DEAD_LIGHT,
    )


def test_the_record_survives_the_metadata(
    stub_model: Callable[..., Any], save_model: Callable[..., Path], tmp_path: Path
) -> None:
    known = record()
    metadata = {"reliability": json.dumps(known.as_dict())}
    save_model(stub_model(metadata), tmp_path)
    engine = OnnxEngine(tmp_path, OnnxSettings(sessions=1, largest_batch=1))
    assert engine.model.reliability.as_dict() == known.as_dict()
    engine.close()
    assert reliability_of({}).as_dict() == {}


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"domain": 3}', "domain"),
        ('{"domain": {"features": ["odd"]}}', "domain"),
        ('{"dead_light": {"threshold": -1, "light": [1], "sigma": [1], "time_sigma": 1}}', "dead"),
        ('{"dead_light": {"threshold": 1, "light": [2, 1], "sigma": [1, 1]}}', "dead_light"),
        ('{"intervals": {"levels": [0.5]}}', "intervals"),
        ('{"intervals": {}}', "intervals"),
    ],
)
def test_a_record_that_is_none_is_refused(entry: str, word: str) -> None:
    with pytest.raises(ModelError, match=word) as caught:
        reliability_of({"reliability": entry})
    assert "\n" not in str(caught.value)


async def test_server_and_local_answers_are_alike(
    stub_model: Callable[..., Any], save_model: Callable[..., Path], tmp_path: Path
) -> None:
    """With limits that raise all flags and fall back."""
    from support_server import NOTHING_DEAD, request, running
    from test_server_answers import same

    known = replace(record(), domain=Domain(np.zeros(5), np.ones(5), -1e9))
    metadata = {"reliability": json.dumps(known.as_dict()), "geometry_hash": GEOMETRY.hash}
    save_model(stub_model(metadata), tmp_path / "model_repository")
    events = events_of(simulated(2, 3), np.stack([hole(slice(30, 60), slice(5, 40))] * 2))
    nobody = DeadList.of(())
    async with running(tmp_path / "model_repository") as service:
        info = service.engine.model
        where = provenance_of(info, nobody.list_id)
        for row in range(2):
            one = events[row : row + 1]
            (local,) = answer(one, service.engine.inner.infer(tensors_of(one)), where, info)
            assert local.flags & Flag.OUTSIDE_DOMAIN
            assert local.flags & Flag.TOO_MUCH_DEAD_LIGHT
            assert (local.recovered.status == RecoveryStatus.BASELINE).any()
            event: Event = next(iter(one))
            same(await service.stub.Reconstruct(request(event, dead_list=NOTHING_DEAD)), local)
