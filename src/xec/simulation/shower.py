"""The electromagnetic shower as a handful of point deposits along the gamma's direction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor

from xec.detector.coordinates import REFF
from xec.simulation.vertex import Gammas
from xec.units import SPEED_OF_LIGHT_CM_PER_NS

_QUANTILES = 512  # cells of the table of the longitudinal profile


@dataclass(frozen=True, slots=True)
class ShowerConfig:
    """Shape of the shower. Lengths in cm, energies in MeV.

    The depth behind the conversion follows a gamma distribution (Longo and Sestili) with mean
    X0 (mean_offset + ln(E / critical energy)); the transverse spread grows from zero to the
    order of the Moliere radius.

    Args:
        deposits: point deposits per gamma; the last one stands for the halo.
        halo_share: mean share of the energy that soft photons (annihilation, bremsstrahlung)
            carry away from the conversion in any direction, also back through the inner face.
        halo_length: mean free path of these photons.
        shape: shape parameter of the gamma distribution of depths.
        mean_offset: mean depth at the critical energy, in radiation lengths.
        radiation_length: X0 of liquid xenon.
        critical_energy: of liquid xenon.
        length_spread: relative spread of the shower's length from event to event.
        lateral_slope: transverse sigma per depth near the conversion.
        lateral_max: transverse sigma far from it; 2.1 cm holds 90 % within 4.6 cm.
        half_length: half of the xenon's length in z at the inner face.
        side_slope: growth of that half per depth (the side faces lean outwards).
        half_azimuth: half of its azimuth, radians.
        xenon_depth: its radial depth.
    """

    deposits: int = 10
    halo_share: float = 0.03
    halo_length: float = 3.0
    shape: float = 1.3
    mean_offset: float = 0.5
    radiation_length: float = 2.77
    critical_energy: float = 11.0
    length_spread: float = 0.15
    lateral_slope: float = 0.35
    lateral_max: float = 2.1
    half_length: float = 33.5
    side_slope: float = 0.35
    half_azimuth: float = 1.0953637
    xenon_depth: float = 38.5


@dataclass(frozen=True, slots=True, eq=False)
class Deposits:
    """D point deposits of each of B gammas; those outside the xenon carry no energy."""

    xyz: Tensor  # (B, D, 3) cm
    energy: Tensor  # (B, D) MeV
    delay: Tensor  # (B, D) ns after the conversion


@cache
def _quantiles(shape: float, device: torch.device) -> Tensor:
    """Quantiles of the gamma distribution of unit mean at equidistant probabilities."""
    # The last probability stays below 1, where the quantile would be infinite.
    probability = np.arange(_QUANTILES + 1) / (_QUANTILES + 0.5)
    quantile = gammaincinv(shape, probability) / shape
    return torch.as_tensor(quantile, dtype=torch.float32, device=device)


def _unit_depths(u: Tensor, shape: float) -> Tensor:
    """Depths of unit mean at probabilities `u` (any shape) of the longitudinal profile."""
    table = _quantiles(shape, u.device)
    place = u * _QUANTILES
    low = place.long().clamp_(max=_QUANTILES - 1)
    return torch.lerp(table[low], table[low + 1], place - low)


def _transverse(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors (B, 3) across `direction` (B, 3), which is never along z here."""
    dx, dy, _ = direction.unbind(-1)
    first = torch.stack([-dy, dx, torch.zeros_like(dx)], dim=-1)
    first = first / first.norm(dim=-1, keepdim=True)
    return first, torch.linalg.cross(direction, first)


def inside_xenon(xyz: Tensor, config: ShowerConfig) -> Tensor:
    """Which points (..., 3) lie in the xenon, bool (...)."""
    x, y, z = xyz.unbind(-1)
    depth = torch.hypot(x, y) - REFF
    azimuth = torch.atan2(y, -x).abs()
    return (
        (depth > 0)
        & (depth < config.xenon_depth)
        & (z.abs() < config.half_length + config.side_slope * depth)
        & (azimuth < config.half_azimuth)
    )


def _core(gammas: Gammas, depth: Tensor, normal: Tensor, config: ShowerConfig) -> Tensor:
    """Places (B, D, 3) of deposits at `depth` (B, D), spread by `normal` (B, D, 3)."""
    sigma = config.lateral_max * torch.tanh(config.lateral_slope * depth / config.lateral_max)
    offset = normal * sigma.unsqueeze(-1)  # across, across, along
    first, second = _transverse(gammas.direction)
    across = offset[..., :1] * first.unsqueeze(1) + offset[..., 1:2] * second.unsqueeze(1)
    along = (depth + 0.5 * offset[..., 2]).unsqueeze(-1) * gammas.direction.unsqueeze(1)
    return gammas.xyz.unsqueeze(1) + across + along


def _halo(gammas: Gammas, u: Tensor, normal: Tensor, config: ShowerConfig) -> Tensor:
    """Places (B, 1, 3) isotropically around the conversion, from `u` (B, 1), `normal` (B, 1, 3)."""
    reach = -config.halo_length * torch.log1p(-u)
    offset: Tensor = normal / normal.norm(dim=-1, keepdim=True) * reach.unsqueeze(-1)
    return gammas.xyz.unsqueeze(1) + offset


def _shares(u: Tensor, config: ShowerConfig) -> Tensor:
    """Shares (B, D) of the energy from uniform `u`: flat Dirichlet core, exponential halo."""
    exponential = -torch.log1p(-u)
    halo = (config.halo_share * exponential[:, -1:]).clamp_(max=1.0)
    core = exponential[:, :-1] * ((1.0 - halo) / exponential[:, :-1].sum(dim=-1, keepdim=True))
    return torch.cat([core, halo], dim=-1)


def draw_deposits(gammas: Gammas, config: ShowerConfig, rng: torch.Generator) -> Deposits:
    """Draw the deposits of each gamma.

    One core deposit falls into each of D - 1 equal parts of the longitudinal profile; what falls
    outside the xenon is lost (leakage).
    """
    B, D = len(gammas.energy), config.deposits
    random = torch.rand(2, B, D, generator=rng, device=rng.device)
    normal = torch.randn(B, D, 3, generator=rng, device=rng.device)
    stretch = torch.randn(B, 1, generator=rng, device=rng.device)
    log_ratio = (gammas.energy / config.critical_energy).log().clamp_(min=0).unsqueeze(-1)
    mean = config.radiation_length * (config.mean_offset + log_ratio)
    mean = mean * (config.length_spread * stretch).exp()
    stratum = torch.arange(D - 1, device=rng.device)
    depth = mean * _unit_depths((stratum + random[0, :, :-1]) / (D - 1), config.shape)

    core = _core(gammas, depth, normal[:, :-1], config)
    halo = _halo(gammas, random[0, :, -1:], normal[:, -1:], config)
    moved = torch.cat([core, halo], dim=1)
    path = torch.cat([depth, (halo - gammas.xyz.unsqueeze(1)).norm(dim=-1)], dim=1)
    inside = inside_xenon(moved, config)
    xyz = torch.where(inside.unsqueeze(-1), moved, gammas.xyz.unsqueeze(1))
    energy = gammas.energy.unsqueeze(-1) * _shares(random[1], config) * inside
    return Deposits(xyz, energy, path / SPEED_OF_LIGHT_CM_PER_NS)
