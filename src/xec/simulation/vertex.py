"""Where the gamma starts, where it flies, how much energy it has and where it converts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from xec.detector.coordinates import REFF

TARGET_SLANT_DEGREES = 15.0


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """The gamma before it reaches the xenon. Lengths in cm, energies in MeV.

    Args:
        energy: lowest and highest energy; flat between them, fixed when equal.
        vertex_y_sigma: spread of the muon stops across the beam, vertical (approximate).
        vertex_z_sigma: spread of the muon stops along the beam (approximate).
        half_u: entry points cover |u| below this, a little beyond the fiducial 23.9 cm.
        half_v: entry points cover |v| below this, a little beyond the fiducial 67.9 cm.
        conversion_length: mean free path in the xenon, (9/7) X0.
        xenon_depth: radial depth of the xenon; a gamma converts within this path.
    """

    energy: tuple[float, float] = (52.8, 52.8)
    vertex_y_sigma: float = 0.8
    vertex_z_sigma: float = 1.8
    half_u: float = 26.0
    half_v: float = 69.5
    conversion_length: float = 9.0 / 7.0 * 2.77
    xenon_depth: float = 38.5


@dataclass(frozen=True, slots=True, eq=False)
class Gammas:
    """B gammas, float32 on one device."""

    energy: Tensor  # (B,) MeV
    vertex: Tensor  # (B, 3) cm
    direction: Tensor  # (B, 3) unit vector of flight
    xyz: Tensor  # (B, 3) cm, conversion


def uvw_from_xyz(xyz: Tensor) -> Tensor:
    """Detector coordinates (..., 3) of points (..., 3), cm; the torch twin of `xec.detector`."""
    x, y, z = xyz.unbind(-1)
    azimuth = math.pi + torch.atan2(-y, -x)
    v = -(azimuth - math.pi) * REFF
    return torch.stack([z, v, torch.hypot(x, y) - REFF], dim=-1)


def angles_from_direction(direction: Tensor) -> Tensor:
    """Theta and phi (..., 2) in degrees of unit vectors (..., 3).

    The convention is direction = (-sin(theta) cos(phi), sin(theta) sin(phi), cos(theta)).
    """
    dx, dy, dz = direction.unbind(-1)
    theta = torch.acos(dz.clamp(-1.0, 1.0))
    return torch.rad2deg(torch.stack([theta, torch.atan2(dy, -dx)], dim=-1))


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng, device=rng.device) * (high - low) + low


def _on_target(n: int, config: SourceConfig, rng: torch.Generator) -> Tensor:
    """Vertices (n, 3) on the stopping target, a sheet slanted against the beam axis."""
    spread = torch.randn(n, 2, generator=rng, device=rng.device)
    y = spread[:, 0] * config.vertex_y_sigma
    z = spread[:, 1] * config.vertex_z_sigma
    x = z * math.tan(math.radians(TARGET_SLANT_DEGREES))
    return torch.stack([x, y, z], dim=-1)


def _entry_points(n: int, config: SourceConfig, rng: torch.Generator) -> Tensor:
    """Points (n, 3) uniform on the inner face."""
    u = _uniform(n, -config.half_u, config.half_u, rng)
    azimuth = _uniform(n, -config.half_v, config.half_v, rng) / REFF
    return torch.stack([-REFF * torch.cos(azimuth), REFF * torch.sin(azimuth), u], dim=-1)


def conversion_path(n: int, config: SourceConfig, rng: torch.Generator) -> Tensor:
    """Paths (n,) in the xenon up to the conversion, cm: exponential, cut at the depth."""
    reach = -math.expm1(-config.xenon_depth / config.conversion_length)
    uniform = torch.rand(n, generator=rng, device=rng.device)
    return -config.conversion_length * torch.log1p(-uniform * reach)


def draw_gammas(n: int, config: SourceConfig, rng: torch.Generator) -> Gammas:
    """Draw `n` gammas that convert behind points uniform on the inner face.

    Uniform entry points (not uniform solid angle) give every part of the face the same weight.
    """
    energy = _uniform(n, *config.energy, rng)
    vertex = _on_target(n, config, rng)
    entry = _entry_points(n, config, rng)
    flight = entry - vertex
    direction = flight / flight.norm(dim=-1, keepdim=True)
    xyz = entry + conversion_path(n, config, rng).unsqueeze(-1) * direction
    return Gammas(energy, vertex, direction, xyz)
