"""The random numbers of an event's light as independent standard normals, and what they make.

An event is a point z of R^57 with the prior N(0, I); uniform numbers are the normal CDF of their
coordinate. The map from z to the deposits is that of `xec.simulation.vertex` and
`xec.simulation.shower`, in float64 and differentiable (but for deposits that leave the xenon).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor

from xec.detector.coordinates import REFF
from xec.simulation.shower import Deposits, ShowerConfig, inside_xenon
from xec.simulation.vertex import TARGET_SLANT_DEGREES, Gammas, SourceConfig
from xec.units import SPEED_OF_LIGHT_CM_PER_NS

ENERGY: Final = 0
"""The coordinate of the gamma's energy."""

PROFILE_CELLS: Final = 512
"""Cells of the table of the longitudinal profile, as many as the simulation's."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each kind of random number stands among the coordinates of z."""

    deposits: int

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of each kind, in the order in which they stand."""
        D = self.deposits
        return {
            "energy": 1,
            "vertex": 2,
            "entry": 2,
            "path": 1,
            "depth": D - 1,
            "reach": 1,
            "share": D,
            "normal": 3 * D,
            "stretch": 1,
        }

    @property
    def size(self) -> int:
        """Coordinates of z."""
        return sum(self.sizes.values())

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Coordinates (..., size) by kind."""
        return dict(zip(self.sizes, torch.split(z, list(self.sizes.values()), dim=-1), strict=True))


@dataclass(frozen=True, slots=True)
class LatentModel:
    """The map from standard normals to gammas and deposits.

    Args:
        source: the gamma before the xenon. Equal energies make the energy a known constant.
        shower: shape of the shower.
    """

    source: SourceConfig = field(default_factory=SourceConfig)
    shower: ShowerConfig = field(default_factory=ShowerConfig)

    @property
    def layout(self) -> Layout:
        """Of the coordinates."""
        return Layout(self.shower.deposits)

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """Points (n, size) of the prior, float64."""
        return torch.randn(n, self.layout.size, generator=rng, dtype=torch.float64)

    def at_energy(self, z: Tensor, energy: float) -> Tensor:
        """The same events with this energy, MeV, inside the prior's range; a copy."""
        low, high = self.source.energy
        moved = z.clone()
        moved[..., ENERGY] = torch.special.ndtri(
            torch.tensor((energy - low) / (high - low)).double()
        )
        return moved

    def gammas(self, z: Tensor) -> Gammas:
        """Gammas of points (..., size)."""
        part = self.layout.split(z)
        config = self.source
        energy = _between(part["energy"].squeeze(-1), *config.energy)
        y, along = (part["vertex"] * _spreads(config)).unbind(-1)
        slant = math.tan(math.radians(TARGET_SLANT_DEGREES))
        vertex = torch.stack([along * slant, y, along], dim=-1)
        entry_u = _between(part["entry"][..., 0], -config.half_u, config.half_u)
        azimuth = _between(part["entry"][..., 1], -config.half_v, config.half_v) / REFF
        entry = torch.stack(
            [-REFF * torch.cos(azimuth), REFF * torch.sin(azimuth), entry_u], dim=-1
        )
        flight = entry - vertex
        direction = flight / flight.norm(dim=-1, keepdim=True)
        reach = -math.expm1(-config.xenon_depth / config.conversion_length)
        path = -config.conversion_length * torch.log1p(-torch.special.ndtr(part["path"]) * reach)
        return Gammas(energy, vertex, direction, entry + path * direction)

    def deposits(self, z: Tensor, gammas: Gammas) -> Deposits:
        """Deposits of points (..., size) and their `gammas`."""
        part = self.layout.split(z)
        moved, path = self._places(part, gammas)
        inside = inside_xenon(moved, self.shower)
        xyz = torch.where(inside.unsqueeze(-1), moved, gammas.xyz.unsqueeze(-2))
        energy = gammas.energy.unsqueeze(-1) * _shares(part["share"], self.shower) * inside
        return Deposits(xyz, energy, path / SPEED_OF_LIGHT_CM_PER_NS)

    def margins(self, z: Tensor) -> Tensor:
        """Distances (..., D), cm, of the deposits from the xenon's surface, negative outside.

        Along the axes of the walls; deposits lose their energy where it passes zero.
        """
        config = self.shower
        moved, _ = self._places(self.layout.split(z), self.gammas(z))
        x, y, along = moved.unbind(-1)
        depth = torch.hypot(x, y) - REFF
        azimuth = torch.atan2(y, -x).abs()
        walls = (
            depth,
            config.xenon_depth - depth,
            config.half_length + config.side_slope * depth - along.abs(),
            (config.half_azimuth - azimuth) * REFF,
        )
        return torch.stack(walls).amin(0)

    def _places(self, part: dict[str, Tensor], gammas: Gammas) -> tuple[Tensor, Tensor]:
        """Where deposits (..., D, 3) would lie in endless xenon, and their paths (..., D), cm."""
        config = self.shower
        normal = part["normal"].reshape(*part["stretch"].shape[:-1], config.deposits, 3)
        depth = self._depths(part, gammas.energy)
        core = _core(gammas, depth, normal[..., :-1, :], config)
        reach = -config.halo_length * torch.special.ndtr(-part["reach"]).log()
        halo = normal[..., -1:, :]
        offset = halo / halo.norm(dim=-1, keepdim=True) * reach.unsqueeze(-1)
        moved = torch.cat([core, gammas.xyz.unsqueeze(-2) + offset], dim=-2)
        return moved, torch.cat([depth, reach], dim=-1)

    def _depths(self, part: dict[str, Tensor], energy: Tensor) -> Tensor:
        """Depths (..., D - 1) behind the conversion, one in each part of the profile, cm."""
        config = self.shower
        log_ratio = (energy / config.critical_energy).log().clamp(min=0).unsqueeze(-1)
        mean = config.radiation_length * (config.mean_offset + log_ratio)
        mean = mean * (config.length_spread * part["stretch"]).exp()
        core = config.deposits - 1
        place = (torch.arange(core, dtype=mean.dtype) + torch.special.ndtr(part["depth"])) / core
        return mean * _unit_depths(place, config.shape)


def _spreads(config: SourceConfig) -> Tensor:
    return torch.tensor([config.vertex_y_sigma, config.vertex_z_sigma], dtype=torch.float64)


def _between(z: Tensor, low: float, high: float) -> Tensor:
    probability: Tensor = torch.special.ndtr(z)
    return probability * (high - low) + low


def _unit_depths(probability: Tensor, shape: float) -> Tensor:
    """Quantiles of the gamma distribution of unit mean, linear between the table's."""
    table = torch.from_numpy(
        gammaincinv(shape, np.arange(PROFILE_CELLS + 1) / (PROFILE_CELLS + 0.5)) / shape
    )
    place = probability * PROFILE_CELLS
    low = place.long().clamp(max=PROFILE_CELLS - 1)
    return torch.lerp(table[low], table[low + 1], place - low)


def _core(gammas: Gammas, depth: Tensor, normal: Tensor, config: ShowerConfig) -> Tensor:
    """Places (..., D - 1, 3) at `depth` (..., D - 1), spread by `normal` (..., D - 1, 3)."""
    sigma = config.lateral_max * torch.tanh(config.lateral_slope * depth / config.lateral_max)
    across, also, along = (normal * sigma.unsqueeze(-1)).unsqueeze(-2).unbind(-1)
    dx, dy, _ = gammas.direction.unbind(-1)
    first = torch.stack([-dy, dx, torch.zeros_like(dx)], dim=-1)
    first = first / first.norm(dim=-1, keepdim=True)
    second: Tensor = torch.linalg.cross(gammas.direction, first)
    along = (depth.unsqueeze(-1) + 0.5 * along) * gammas.direction.unsqueeze(-2)
    offset = across * first.unsqueeze(-2) + also * second.unsqueeze(-2) + along
    core: Tensor = gammas.xyz.unsqueeze(-2) + offset
    return core


def _shares(z: Tensor, config: ShowerConfig) -> Tensor:
    """Shares (..., D) of the energy: flat Dirichlet core, exponential halo."""
    exponential = -torch.special.ndtr(-z).log()
    halo = (config.halo_share * exponential[..., -1:]).clamp(max=1.0)
    core = exponential[..., :-1]
    return torch.cat([core * ((1.0 - halo) / core.sum(dim=-1, keepdim=True)), halo], dim=-1)
