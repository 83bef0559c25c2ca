"""Conventional estimates inside the graph: closed forms, and digits that float32 must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from xec.detector.channels import FACE_IDS, N_CHANNELS, N_MPPC, Face
from xec.detector.coordinates import uvw_from_xyz, xyz_from_uvw
from xec.detector.geometry import parametric
from xec.models.moments import FlightTime, LightMoments
from xec.units import SPEED_OF_LIGHT_CM_PER_NS


def uv_of_inner() -> Tensor:
    return torch.tensor(uvw_from_xyz(parametric().position[:N_MPPC])[:, :2])


def spot(u: float, v: float, sigma: float) -> Tensor:
    """Light (1, 4760) with a Gaussian spot on the inner face."""
    distance2 = (uv_of_inner() - torch.tensor([u, v])).square().sum(1)
    light = torch.zeros(1, N_CHANNELS, dtype=torch.float64)
    light[0, :N_MPPC] = 5000.0 * torch.exp(-0.5 * distance2 / sigma**2)
    return light


def test_centre_of_a_spot_is_where_it_is() -> None:
    moments = LightMoments(uv_of_inner()).double()(spot(3.0, -21.0, 4.0))
    assert torch.allclose(moments.uv, torch.tensor([[3.0, -21.0]], dtype=torch.float64), atol=0.01)


def test_width_of_the_light_squared_is_that_of_the_spot_over_root_two() -> None:
    moments = LightMoments(uv_of_inner()).double()(spot(0.0, 0.0, 4.0))
    width = moments.features[0, 9:11] * 20.0
    assert width.tolist() == pytest.approx([4.0 / 2**0.5] * 2, rel=0.01)


def test_sums_of_light_are_those_of_the_faces() -> None:
    light = torch.rand(2, N_CHANNELS, dtype=torch.float64) * 100.0
    moments = LightMoments(uv_of_inner()).double()(light)
    assert torch.allclose(moments.total[:, 0], light.sum(1))
    for column, face in enumerate(Face):
        total = light[:, FACE_IDS[face].copy()].sum(1)
        assert torch.allclose(moments.features[:, column], torch.log1p(total / 1e4))


def test_negative_counts_carry_no_light() -> None:
    light = spot(1.0, 2.0, 3.0)
    dark = light.clone()
    dark[0, 4000:] = -30.0
    moments = LightMoments(uv_of_inner()).double()
    light[0, 4000:] = 0.0
    assert torch.equal(moments(dark).uv, moments(light).uv)


def _worst(moments: LightMoments, light: Tensor) -> float:
    exact = moments.double()(light).uv
    return float((moments.float()(light.float()).uv.double() - exact).abs().max())


def test_float32_keeps_micrometres_at_the_edge_of_the_face() -> None:
    light = spot(20.0, 66.0, 2.0) + torch.rand(1, N_CHANNELS, dtype=torch.float64)
    assert _worst(LightMoments(uv_of_inner()), light) < 1e-5
    uv, weight = uv_of_inner().float(), light[:, :N_MPPC].float().square()
    plain = (weight / weight.sum(1, keepdim=True)) @ uv
    exact = LightMoments(uv_of_inner()).double()(light).uv
    assert (plain.double() - exact).abs().max() > 1e-6  # control: what plain sums would lose


def test_flight_time_undoes_the_flight() -> None:
    geometry = parametric()
    xyz = xyz_from_uvw(np.array([[5.0, 10.0, 8.0]]))
    distance = np.linalg.norm(geometry.position - xyz, axis=1)
    time = torch.tensor(2.5 + distance * 1.7 / SPEED_OF_LIGHT_CM_PER_NS, dtype=torch.float32)
    light = torch.rand(1, N_CHANNELS)
    start = FlightTime(geometry, index=1.7)(time[None], light, torch.tensor(xyz).float())
    assert start.item() == pytest.approx(2.5, abs=1e-4)


def test_flight_time_without_light_is_zero() -> None:
    nothing = torch.zeros(1, N_CHANNELS)
    assert FlightTime(parametric())(nothing, nothing, torch.zeros(1, 3)).item() == 0.0
