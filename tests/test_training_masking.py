"""Masks: which sensors are taken out, how many, and where."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from xec.detector.channels import FACE_IDS, INNER_GRID, N_MPPC, Face
from xec.detector.geometry import parametric
from xec.simulation.generator import Generator
from xec_training.clusters import cluster_order
from xec_training.data.batch import TrainingBatch
from xec_training.data.simulated import training_simulation
from xec_training.masking import BRIGHT, MASK_KINDS, Masked, MaskKind, hide, mask_for_pretraining

CPU = torch.device("cpu")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def batch() -> TrainingBatch:
    """Simulated events with many invalid readings besides."""
    drawn = Generator(training_simulation(), parametric(), CPU, 3).sample(16)
    batch = TrainingBatch.from_simulated(drawn)
    known = batch.npho_valid & (torch.rand(batch.npho.shape, generator=rng(1)) > 0.1)
    return replace(
        batch,
        npho=batch.npho.masked_fill(~known, 0.0),
        npho_valid=known,
        time_valid=batch.time_valid & known,
    )


def sensors(face: Face) -> torch.Tensor:
    return torch.from_numpy(FACE_IDS[face].copy())


def same(a: Masked, b: Masked) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def check(masked: Masked, batch: TrainingBatch) -> None:
    """What holds for every mask."""
    assert not (masked.hidden & masked.live).any()
    assert torch.equal(masked.live, masked.npho_valid)
    assert not (masked.live & batch.dead).any()
    assert not (masked.hidden & ~batch.npho_valid).any()
    assert not (masked.live & ~batch.npho_valid).any()
    assert (masked.npho[~masked.npho_valid] == 0).all()
    assert torch.equal(masked.npho[masked.live], batch.npho[masked.live])
    assert torch.equal(masked.time_valid, batch.time_valid & masked.live)
    assert (masked.time[~masked.time_valid] == 0).all()
    assert torch.equal(masked.time[masked.time_valid], batch.time[masked.time_valid])


def test_hidden_sensors_are_out_of_the_input_and_have_a_known_reading(
    batch: TrainingBatch,
) -> None:
    masked = hide(batch, 0.3, 0.0, rng())
    check(masked, batch)
    assert torch.equal(masked.hidden | masked.live, batch.npho_valid)
    share = (masked.hidden & ~batch.dead).float().mean(dim=1)
    assert (share == 0).any()
    assert 0.1 < share.max() < 0.3


def test_without_extra_masks_only_the_dead_are_hidden(batch: TrainingBatch) -> None:
    masked = hide(batch, 0.0, 0.0, rng())
    assert torch.equal(masked.hidden, batch.dead & batch.npho_valid)


def test_bright_masks_lie_where_the_neighbours_are_bright(batch: TrainingBatch) -> None:
    """Against a loop over the sensors."""
    masked = hide(batch, 0.0, 1.0, rng())
    check(masked, batch)
    more = masked.hidden & ~batch.dead
    assert (more.sum(dim=1) == 0).any()
    assert more.sum(dim=1).max() > 5
    for event in range(len(batch)):
        visible = batch.npho_valid[event] & ~batch.dead[event]
        light = {}
        for row in range(93):
            for column in range(44):
                around = [
                    44 * (row + i) + column + j
                    for i in (-1, 0, 1)
                    for j in (-1, 0, 1)
                    if (i or j) and 0 <= row + i < 93 and 0 <= column + j < 44
                ]
                seen = [float(batch.npho[event, k]) for k in around if visible[k]]
                light[44 * row + column] = sum(seen) / max(len(seen), 1)
        brightest = sorted(light, key=light.__getitem__)[-BRIGHT:]
        assert set(more[event].nonzero().flatten().tolist()) <= set(brightest)


def test_bright_masks_do_not_depend_on_the_masked_readings(batch: TrainingBatch) -> None:
    """Control: a choice by the readings themselves would, and teach a bias."""
    masked = hide(batch, 0.0, 1.0, rng())
    event, channel = (masked.hidden & ~batch.dead).nonzero()[0].tolist()
    npho = batch.npho.clone()
    npho[event, channel] = 0.0
    again = hide(replace(batch, npho=npho), 0.0, 1.0, rng())
    assert again.hidden[event, channel]


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("ratio", [0.0, 0.29, 0.6, 0.95, 1.0])
def test_each_face_loses_its_share_exactly(
    batch: TrainingBatch, kind: MaskKind, ratio: float
) -> None:
    masked = mask_for_pretraining(batch, ratio, kind, rng())
    check(masked, batch)
    candidates = batch.npho_valid & ~batch.dead
    assert not (masked.hidden & ~candidates).any()
    assert torch.equal(masked.hidden | masked.live, candidates)
    for face in Face:
        ids = sensors(face)
        for event in range(len(batch)):
            n = int(candidates[event, ids].sum())
            assert 0 < n < len(ids)
            assert int(masked.hidden[event, ids].sum()) == math.floor(ratio * n), face


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_a_face_without_a_valid_sensor_loses_none(batch: TrainingBatch, kind: MaskKind) -> None:
    known = batch.npho_valid.clone()
    known[0, sensors(Face.TOP)] = False
    known[1] = False
    dead = batch.dead.clone()
    dead[2, sensors(Face.INNER)] = True
    masked = mask_for_pretraining(replace(batch, npho_valid=known, dead=dead), 0.6, kind, rng())
    assert not masked.hidden[0, sensors(Face.TOP)].any()
    assert not masked.hidden[1].any()
    assert not masked.hidden[2, sensors(Face.INNER)].any()
    assert masked.hidden[3].sum() > 2000


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masks_follow_from_the_state_of_the_random_numbers(
    batch: TrainingBatch, kind: MaskKind
) -> None:
    generator = rng(5)
    first = mask_for_pretraining(batch, 0.6, kind, generator)
    second = mask_for_pretraining(batch, 0.6, kind, generator)
    assert same(mask_for_pretraining(batch, 0.6, kind, rng(5)), first)
    assert not same(second, first)
    assert not torch.equal(first.hidden[0], first.hidden[1])


def all_live(n: int) -> TrainingBatch:
    zero, yes = torch.zeros(n, 4760), torch.ones(n, 4760, dtype=torch.bool)
    one = torch.zeros(n)
    return TrainingBatch(
        zero, zero, zero, yes, yes, ~yes, one, one, zero[:, :3], zero[:, :2], one.bool(), one
    )


@pytest.mark.parametrize("ratio", [0.29, 0.57, 0.58])
def test_shares_are_rounded_down_as_on_paper(ratio: float) -> None:
    """Of 1 to 200 known sensors; single precision would round 0.29 x 100 to 29 and not to 28."""
    batch = all_live(200)
    known = torch.arange(4760) < torch.arange(1, 201)[:, None]
    masked = mask_for_pretraining(replace(batch, npho_valid=known), ratio, "random", rng())
    expected = [math.floor(ratio * n) for n in range(1, 201)]
    assert masked.hidden.sum(dim=1).tolist() == expected
    single = torch.arange(1, 201) * torch.tensor(ratio)
    assert single.floor().long().tolist() != expected  # control


def inner_borders(hidden: torch.Tensor) -> torch.Tensor:
    """Share (B,) of neighbouring pairs on the inner face of which one is masked."""
    grid = hidden[:, torch.from_numpy(INNER_GRID.copy())]
    across, down = grid[:, :, 1:] != grid[:, :, :-1], grid[:, 1:] != grid[:, :-1]
    return torch.cat([across.flatten(1), down.flatten(1)], dim=1).double().mean(dim=1)


def face_borders(hidden: torch.Tensor, face: Face) -> torch.Tensor:
    """The same on another face, for pairs less than 11 cm apart."""
    position = torch.from_numpy(parametric().position[FACE_IDS[face]])
    a, b = ((torch.cdist(position, position) < 11.0).triu(1)).nonzero().T
    on_face = hidden[:, sensors(face)]
    return (on_face[:, a] != on_face[:, b]).double().mean(dim=1)


@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_clusters_have_few_borders(ratio: float) -> None:
    """Of single sensors, 2 r (1 - r) of the pairs are borders: the control of the statistic."""
    live = all_live(32)
    borders = {
        kind: inner_borders(mask_for_pretraining(live, ratio, kind, rng()).hidden)
        for kind in MASK_KINDS
    }
    expected = 2 * ratio * (1 - ratio)
    assert borders["random"].mean() == pytest.approx(expected, rel=0.02)
    assert borders["cluster"].max() < 0.4 * expected
    clustered = borders["mixed"] < 0.6 * expected
    assert 6 <= clustered.sum() <= 26
    assert borders["mixed"][~clustered].mean() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("face", [face for face in Face if face is not Face.INNER])
def test_neighbourhoods_on_the_other_faces_have_few_borders(face: Face) -> None:
    live = all_live(32)
    random = face_borders(mask_for_pretraining(live, 0.4, "random", rng()).hidden, face)
    cluster = face_borders(mask_for_pretraining(live, 0.4, "cluster", rng()).hidden, face)
    assert random.mean() == pytest.approx(0.48, rel=0.1)
    assert cluster.mean() < 0.65 * random.mean()


def test_clusters_are_the_rectangles_that_they_say() -> None:
    """The sensors of the first rectangle of an event fill a board, a row or a block.

    Where it lies across the edge of the face, a part of one.
    """
    keys = cluster_order(200, rng())[:, torch.from_numpy(INNER_GRID.copy())]
    shapes = set()
    for inside in keys.floor() == 0.0:
        rows, columns = inside.any(dim=1), inside.any(dim=0)
        shape = int(rows.sum()), int(columns.sum())
        assert int(inside.sum()) == shape[0] * shape[1]
        assert rows.nonzero().max() - rows.nonzero().min() + 1 == shape[0]
        assert columns.nonzero().max() - columns.nonzero().min() + 1 == shape[1]
        if not (rows[[0, -1]].any() or columns[[0, -1]].any()):
            shapes.add(shape)
    assert {(1, 16), (4, 4), (2, 8)} <= shapes
    blocks = shapes - {(1, 16), (2, 8)}
    assert all(3 <= side <= 12 for shape in blocks for side in shape)
    assert len(blocks) > 40


def test_no_place_is_masked_more_often_than_others() -> None:
    """Corners and edges neither; rectangles inside the face would leave its corners out."""
    n = 600
    hidden = mask_for_pretraining(all_live(n), 0.6, "cluster", rng()).hidden
    share = hidden.double().mean(dim=0)
    for face in Face:
        on_face = share[sensors(face)]
        # Five standard deviations of the most extreme sensor, of n events that are independent.
        assert (on_face - on_face.mean()).abs().max() < 5 * (0.24 / n) ** 0.5, face


def test_a_dead_row_is_a_whole_row() -> None:
    """Some clusters are rows of all 44 columns, from edge to edge; none has 17 to 43 of one row."""
    order = cluster_order(64, torch.Generator().manual_seed(5))[:, :N_MPPC].floor()
    earliest = order.reshape(64, 93, 44)
    earliest = earliest.where(earliest < 8, -1)  # hardly cut by clusters before them
    lengths = [
        int((row == number).sum())
        for event in earliest
        for row in event
        for number in row.unique().tolist()
        if number >= 0 and (event == number).sum() == (row == number).sum()
    ]
    assert lengths.count(44) > 0
    assert max(n for n in lengths if n < 30) <= 16
