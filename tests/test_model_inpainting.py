"""Gathering at masked sensors against the specification's loop over events."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xec.detector.channels import FACE_IDS, N_CHANNELS, Face
from xec.models.inpainting import (
    GRIDS,
    Gathered,
    gather_faces,
    gather_graph,
    gather_grid,
    inpainted,
)

V = 2
SHAPES = [(5, 4), (24, 6), (7,), (73,)]
RATES = {
    "mixed": (0.3, 0.0, 1.0, 0.02, 0.6),  # one event without, one with nothing but masked sensors
    "none": (0.0, 0.0),
    "all": (1.0, 1.0),
    "first without": (0.0, 0.5),
    "one event": (0.4,),
}


def gather(values: Tensor, masked: Tensor) -> Gathered:
    return (gather_grid if masked.ndim == 3 else gather_graph)(values, masked)


def by_loop(values: Tensor, masked: Tensor) -> Gathered:
    """The specification's "before": event by event."""
    B = len(masked)
    K = max(int(m.sum()) for m in masked)
    found = torch.zeros(B, K, V, dtype=values.dtype)
    index = torch.zeros(B, K, masked.ndim - 1, dtype=torch.long)
    valid = torch.zeros(B, K, dtype=torch.bool)
    for b in range(B):
        place = masked[b].nonzero(as_tuple=False)
        n = place.shape[0]
        if n > 0:
            found[b, :n] = torch.stack([values[b, :, *p] for p in place.tolist()])
            index[b, :n] = place
            valid[b, :n] = True
    return Gathered(found, index if masked.ndim == 3 else index.squeeze(2), valid)


def case(shape: tuple[int, ...], rates: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(len(rates), V, *shape, generator=generator, dtype=torch.float64)
    draw = torch.rand(len(rates), *shape, generator=generator)
    return values.requires_grad_(), draw < torch.tensor(rates).reshape(-1, *[1] * len(shape))


def equal(first: Gathered, second: Gathered) -> bool:
    return (
        torch.equal(first.values, second.values)
        and torch.equal(first.index, second.index)
        and torch.equal(first.valid, second.valid)
    )


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_loop(shape: tuple[int, ...], rates: tuple[float, ...]) -> None:
    values, masked = case(shape, rates)
    ours, loops = gather(values, masked), by_loop(values, masked)
    assert equal(ours, loops)
    assert ours.valid.sum() == masked.sum()
    assert ours.values.shape[1] == masked.flatten(1).sum(1).max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_the_loop(shape: tuple[int, ...]) -> None:
    values, masked = case(shape, RATES["mixed"])
    found = []
    for gathered in (gather(values, masked), by_loop(values, masked)):
        weight = torch.arange(gathered.values.numel(), dtype=torch.float64).sin()
        loss = (gathered.values.square() * weight.reshape(gathered.values.shape)).sum()
        found += torch.autograd.grad(loss, values)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0].ne(0).any(1), masked)


def test_places_that_are_not_masked_stay_out_whatever_they_hold() -> None:
    """The padding points at the first sensor, whose value must not leak."""
    values, masked = case((5, 4), RATES["mixed"])
    spoiled = values.detach().clone()
    spoiled[~masked.unsqueeze(1).expand_as(values)] = float("nan")
    spoiled.requires_grad_()
    ours = gather_grid(spoiled, masked)
    assert equal(ours, by_loop(values, masked))
    (gradient,) = torch.autograd.grad(ours.values.sum(), spoiled)
    assert torch.equal(gradient, masked.unsqueeze(1).expand_as(gradient).double())


def test_without_any_masked_sensor_nothing_is_gathered_and_nothing_breaks() -> None:
    values, masked = case((5, 4), RATES["none"])
    ours = gather_grid(values, masked)
    assert ours.values.shape == (2, 0, V)
    assert ours.index.shape == (2, 0, 2)
    (gradient,) = torch.autograd.grad(ours.values.sum(), values)
    assert not gradient.any()


def test_half_precision_stays() -> None:
    values, masked = case((7,), RATES["mixed"])
    assert gather_graph(values.bfloat16(), masked).values.dtype == torch.bfloat16


def offsets_left_out(values: Tensor, masked: Tensor) -> Gathered:
    """A broken form: the place in the whole batch in place of that in the event."""
    event, node = masked.nonzero(as_tuple=True)
    B, K = len(masked), len(node)
    found = torch.zeros(B, K, V, dtype=values.dtype)
    index, valid = torch.zeros(B, K, dtype=torch.long), torch.zeros(B, K, dtype=torch.bool)
    place = torch.arange(K)
    found[event, place] = values[event, :, node]
    index[event, place] = node
    valid[event, place] = True
    most = int(masked.sum(1).max())
    return Gathered(found[:, :most], index[:, :most], valid[:, :most])


def test_global_places_would_be_seen() -> None:
    """Negative control: right for the first event alone."""
    values, masked = case((7,), RATES["mixed"])
    assert not equal(offsets_left_out(values, masked), by_loop(values, masked))
    alone = values[:1], masked[:1]
    assert equal(offsets_left_out(*alone), by_loop(*alone))


def test_every_masked_sensor_is_found_on_its_face_at_its_place() -> None:
    masked = torch.rand(3, N_CHANNELS, generator=torch.Generator().manual_seed(1)) < 0.1
    ids = torch.arange(N_CHANNELS, dtype=torch.float32).expand(3, 1, -1)
    found = gather_faces(ids, masked)
    seen = torch.zeros_like(masked)
    for face, gathered in found.items():
        events, places = gathered.valid.nonzero(as_tuple=True)
        channels = gathered.values[events, places, 0].long()
        seen[events, channels] = True
        index = gathered.index[events, places]
        grid = torch.from_numpy(GRIDS.get(face, FACE_IDS[face]).copy())
        assert torch.equal(grid[tuple(index.T)] if face in GRIDS else grid[index], channels)
    assert torch.equal(seen, masked)


def test_inpainted_holds_the_contracts_outputs_of_masked_sensors_only() -> None:
    rng = torch.Generator().manual_seed(2)
    names = ("npho_mean", "npho_sigma", "time_mean", "time_sigma")
    outputs = {name: torch.rand(2, N_CHANNELS, generator=rng) for name in names}
    masked = torch.zeros(2, N_CHANNELS, dtype=torch.bool)
    masked[0, 44 * 7 + 3] = masked[1, 4600] = True
    found = inpainted(outputs, masked)
    assert found[Face.INNER].index[0, 0].tolist() == [7, 3]
    assert found[Face.INNER].valid.sum(1).tolist() == [1, 0]
    for column, name in enumerate(names):
        assert found[Face.INNER].values[0, 0, column] == outputs[name][0, 44 * 7 + 3]
        assert found[Face.TOP].values[1, 0, column] == outputs[name][1, 4600]
    assert found[Face.OUTER].valid.shape == (2, 0)
