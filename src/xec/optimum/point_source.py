"""Cramér-Rao bound on energy and place of a single point-like deposit.

With light m(E, u, v, w) known and readings of variance V, no unbiased estimate has a covariance
below the inverse of sum over live sensors of (grad m) (grad m)^T / V.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from xec.detector.coordinates import REFF
from xec.optimum.lightmap import LightMap
from xec.optimum.readings import ReadingModel

COMPONENTS: Final = ("energy", "u", "v", "w")


def xyz_of_uvw(uvw: Tensor) -> Tensor:
    """Points (..., 3) in cm of detector coordinates (..., 3) in cm."""
    u, v, w = uvw.unbind(-1)
    radius, angle = w + REFF, v / REFF
    return torch.stack([-radius * torch.cos(angle), radius * torch.sin(angle), u], dim=-1)


def axes_of_uvw(uvw: Tensor) -> Tensor:
    """d(x, y, z) / d(u, v, w) at points (B, 3): (B, 3, 3), one row per x, y, z."""
    u, v, w = uvw.unbind(-1)
    angle, zero = v / REFF, torch.zeros_like(u)
    cos, sin = torch.cos(angle), torch.sin(angle)
    reach = (w + REFF) / REFF
    along_u = torch.stack([zero, zero, torch.ones_like(u)], dim=-1)
    along_v = torch.stack([reach * sin, reach * cos, zero], dim=-1)
    along_w = torch.stack([-cos, sin, zero], dim=-1)
    return torch.stack([along_u, along_v, along_w], dim=-1)


def point_information(
    light_map: LightMap,
    readings: ReadingModel,
    uvw: Tensor,
    energy: Tensor,
    efficiency: Tensor,
) -> Tensor:
    """Information (B, N, 4, 4) of each sensor on energy (MeV), u, v, w (cm) of one deposit.

    Args:
        light_map: of the geometry, float64.
        readings: of the sensors.
        uvw: (B, 3) cm.
        energy: (B,) MeV.
        efficiency: of the MPPC, (B,).
    """
    slopes = light_map.slopes(xyz_of_uvw(uvw).unsqueeze(1), energy.unsqueeze(1))
    place = slopes.place[:, 0].mT @ axes_of_uvw(uvw)  # (B, N, 3)
    gradient = torch.cat([slopes.energy[:, 0].unsqueeze(-1), place], dim=-1)
    variance = readings.variance(slopes.light, efficiency)
    return gradient.unsqueeze(-1) * gradient.unsqueeze(-2) / variance[..., None, None]


def point_bound(per_sensor: Tensor, live: Tensor) -> Tensor:
    """Least standard deviations (..., 4) of `COMPONENTS` with the sensors `live` (..., N).

    Args:
        per_sensor: (..., N, 4, 4) information; broadcasts with `live`.
        live: which sensors are read.
    """
    total = torch.einsum("...nij,...n->...ij", per_sensor, live.to(per_sensor.dtype))
    covariance: Tensor = torch.linalg.inv(total)
    return covariance.diagonal(dim1=-2, dim2=-1).sqrt()
