"""The loss of a direction against the arc between unit vectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xec_training.angular import great_circle


def unit_vector(angle: Tensor) -> Tensor:
    theta, phi = torch.deg2rad(angle).unbind(1)
    return torch.stack([-theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=1)


def arc(first: Tensor, second: Tensor) -> Tensor:
    """Degrees between two directions, by the dot product."""
    dot = (unit_vector(first) * unit_vector(second)).sum(1)
    return torch.rad2deg(torch.arccos(dot.clamp(-1, 1)))


def directions(count: int, seed: int) -> Tensor:
    draw = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw * torch.tensor([180.0, 360.0]) - torch.tensor([0.0, 180.0])


@pytest.mark.parametrize("unit", [1.0, 2.5])
def test_it_is_one_minus_the_cosine_of_the_arc(unit: float) -> None:
    first, second = directions(500, 1), directions(500, 2)
    expected = (1 - torch.deg2rad(arc(first, second)).cos()) * (180 / torch.pi / unit) ** 2
    assert torch.allclose(great_circle(first, second, unit), expected, rtol=1e-9)


def test_small_distances_count_half_their_square_in_units() -> None:
    target = directions(200, 3).float()
    step = torch.randn(200, 2, generator=torch.Generator().manual_seed(4)) * 0.01
    step[:, 1] /= torch.deg2rad(target[:, 0]).sin()
    near = target + step
    expected = 0.5 * (arc(near.double(), target.double()) / 0.5).square()
    # Float32 resolves 1.5e-5 degrees in phi; the steps are of the order of 1e-2.
    found = great_circle(near, target, 0.5).double()
    assert torch.allclose(found, expected, rtol=5e-3, atol=1e-6)
    # Negative control: the cosine itself has no digits left there.
    dot = (unit_vector(near) * unit_vector(target)).sum(1)
    plain = (1 - dot).double() * (180 / torch.pi / 0.5) ** 2
    assert not torch.allclose(plain, expected, rtol=0.5, atol=1e-6)


def test_a_turn_more_changes_nothing() -> None:
    first, second = directions(100, 5), directions(100, 6)
    turn = torch.tensor([0.0, 360.0])
    found = great_circle(first, second)
    assert torch.allclose(great_circle(first + turn, second), found, rtol=1e-10)
    assert torch.allclose(great_circle(first, second - turn), found, rtol=1e-10)


def test_no_seam_at_the_back_unlike_plain_differences() -> None:
    first = torch.tensor([[90.0, 179.0]], dtype=torch.float64)
    second = torch.tensor([[90.0, -179.0]], dtype=torch.float64)
    assert great_circle(first, second).item() == pytest.approx(0.5 * 2.0**2, rel=1e-3)
    assert 0.5 * (first - second).square().sum() > 1e4  # negative control


@pytest.mark.parametrize("angle", [(60.0, 20.0), (0.0, 20.0), (180.0, 0.0), (-10.0, 400.0)])
def test_gradients_are_finite_and_vanish_at_the_target(angle: tuple[float, float]) -> None:
    target = torch.tensor([angle])
    mean = target.clone().requires_grad_()
    (at_target,) = torch.autograd.grad(great_circle(mean, target).sum(), mean)
    assert torch.equal(at_target, torch.zeros(1, 2))
    pole = torch.zeros(1, 2, requires_grad=True)
    (at_pole,) = torch.autograd.grad(great_circle(pole, target).sum(), pole)
    assert at_pole.isfinite().all()


def test_descent_arrives_from_across_the_seam() -> None:
    target = torch.tensor([[80.0, 170.0]], dtype=torch.float64)
    mean = torch.tensor([[120.0, -150.0]], dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(great_circle(mean, target).sum(), mean)
        mean = (mean - 0.5 * gradient).detach().requires_grad_()
    assert arc(mean.detach(), target).item() < 1e-3
    assert mean[0, 1].item() == pytest.approx(-190.0, abs=1e-2)


def test_half_precision_is_widened() -> None:
    target = directions(20, 7)
    assert great_circle(target.half(), target.half() + 1).dtype == torch.float32
