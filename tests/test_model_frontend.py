"""The front-end: validity, normalisation, neighbours, the zero of time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from xec.detector.channels import FACE_IDS, N_CHANNELS, Face
from xec.detector.geometry import parametric
from xec.models.frontend import (
    INNER_REACH,
    FrontEnd,
    NeighbourMean,
    npho_of_root,
    npho_per_root,
    root_of_npho,
)


def event(B: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    npho = torch.rand(B, N_CHANNELS, generator=generator) * 500.0 - 5.0
    time = torch.rand(B, N_CHANNELS, generator=generator) * 8.0
    npho_valid = torch.rand(B, N_CHANNELS, generator=generator) > 0.1
    time_valid = (torch.rand(B, N_CHANNELS, generator=generator) > 0.5) & npho_valid
    return npho, time, npho_valid, time_valid


@pytest.fixture(scope="module")
def front_end() -> FrontEnd:
    return FrontEnd(parametric())


@pytest.mark.parametrize("stored", [-1.0, 0.0, 1e3, 1e10, float("nan"), float("inf")])
def test_the_stored_value_of_an_invalid_sensor_changes_nothing(
    front_end: FrontEnd, stored: float
) -> None:
    npho, time, npho_valid, time_valid = event()
    plain = front_end(npho, time, npho_valid, time_valid)
    other = front_end(
        torch.where(npho_valid, npho, stored),
        torch.where(time_valid, time, stored),
        npho_valid,
        time_valid,
    )
    for a, b in zip(plain, other, strict=True):
        assert torch.equal(a, b)


def test_a_valid_sensor_does_change_something(front_end: FrontEnd) -> None:
    """Negative control of the test above."""
    npho, time, npho_valid, time_valid = event()
    changed = npho.clone()
    channel = int(npho_valid[0].nonzero()[0])
    changed[0, channel] += 50.0
    plain = front_end(npho, time, npho_valid, time_valid)
    assert not torch.equal(
        plain.features, front_end(changed, time, npho_valid, time_valid).features
    )


def test_features_do_not_depend_on_the_zero_of_time(front_end: FrontEnd) -> None:
    npho, time, npho_valid, time_valid = event()
    plain = front_end(npho, time, npho_valid, time_valid)
    later = front_end(npho, time + 64.0, npho_valid, time_valid)
    assert torch.allclose(plain.features, later.features, atol=2e-5)
    assert torch.allclose(later.zero - plain.zero, torch.full_like(plain.zero, 64.0), atol=1e-4)


def test_a_time_without_a_valid_count_is_not_used(front_end: FrontEnd) -> None:
    npho, time, npho_valid, _ = event()
    everywhere = torch.ones_like(npho_valid)
    readings = front_end(npho, time, npho_valid, everywhere)
    assert torch.equal(readings.time_valid, npho_valid.float())


def test_root_and_its_inverse() -> None:
    npho = torch.tensor([-5.0, 0.0, 1.0, 100.0, 1e4], dtype=torch.float64)
    assert torch.allclose(npho_of_root(root_of_npho(npho)), npho, atol=1e-9)
    root = root_of_npho(npho).requires_grad_()
    (slope,) = torch.autograd.grad(npho_of_root(root).sum(), root)
    assert torch.allclose(slope, npho_per_root(root), atol=1e-12)


def test_root_stabilises_the_variance_of_photoelectrons() -> None:
    generator = torch.Generator().manual_seed(1)
    spreads = []
    for light in (200.0, 1000.0, 5000.0):
        pe = torch.poisson(torch.full((200_000,), light * 0.1), generator=generator)
        spreads.append(root_of_npho(pe / 0.1).std().item())
    assert max(spreads) / min(spreads) < 1.06


def slow_mean(value: np.ndarray, weight: np.ndarray, channel: int) -> float:
    """Inverse fourth power of the distance over the face's other sensors in reach."""
    geometry = parametric()
    face = next(f for f, ids in FACE_IDS.items() if channel in ids)
    total = norm = 0.0
    for other in FACE_IDS[face]:
        if other == channel:
            continue
        if face is Face.INNER:
            drow = abs(int(other) // 44 - channel // 44)
            dcol = abs(int(other) % 44 - channel % 44)
            if max(drow, dcol) > INNER_REACH:
                continue
            step = geometry.position[[0, 44, 1]]
            pitch_v = np.linalg.norm(step[1] - step[0])
            pitch_u = np.linalg.norm(step[2] - step[0])
            distance = np.hypot(drow * pitch_v, dcol * pitch_u)
            w = (pitch_u / distance) ** 4
        else:
            w = (7.0 / np.linalg.norm(geometry.position[other] - geometry.position[channel])) ** 4
        total += w * value[other] * weight[other]
        norm += w * weight[other]
    return total / norm


@pytest.mark.parametrize("channel", [0, 43, 2000, 4091, 4092, 4195, 4310, 4600, 4700, 4759])
def test_neighbour_mean_equals_a_slow_loop(channel: int) -> None:
    npho, _, npho_valid, _ = event(1)
    mean = NeighbourMean(parametric())(npho, npho_valid.float())
    expected = slow_mean(npho[0].numpy(), npho_valid[0].numpy(), channel)
    assert mean[0, channel].item() == pytest.approx(expected, rel=1e-4)


def test_neighbour_mean_of_uniform_light_is_that_light() -> None:
    _, _, valid, _ = event(1)
    mean = NeighbourMean(parametric())(torch.full((1, N_CHANNELS), 12.5), valid.float())
    assert torch.allclose(mean, torch.full_like(mean, 12.5), rtol=1e-3)


def test_a_face_without_valid_sensors_has_a_mean_of_zero() -> None:
    valid = torch.ones(1, N_CHANNELS)
    valid[:, :4092] = 0.0
    mean = NeighbourMean(parametric())(torch.ones(1, N_CHANNELS), valid)
    assert (mean[:, :4092] == 0).all()
    assert torch.allclose(mean[:, 4092:], torch.ones(1, 668), rtol=1e-3)
