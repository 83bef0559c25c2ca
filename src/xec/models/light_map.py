"""Light of point sources at the sensors, inside the graph: solid angle, attenuation, scattering.

A sensor of area A whose plane lies at height h below a source, at distance r, sees the share

    A h / (4 pi q^(3/2)),   q = r^2 + s (5 h^2 / r^2 - 3),

with s the mean square of one coordinate over its active area (multipole expansion, resummed as in
`xec.simulation.optics`), times exp(-r / lambda), and a share of light that was scattered on its
way. Both constants start at FACTS 6 and are learned with the network.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xec.detector.channels import IS_MPPC
from xec.detector.geometry import Geometry
from xec.detector.solid_angle import CHIP, CHIP_GAP, PMT_RADIUS

MPPC_AREA: Final = 4.0 * CHIP**2  # cm^2
PMT_AREA: Final = math.pi * PMT_RADIUS**2
MPPC_SPREAD: Final = ((CHIP + CHIP_GAP) / 2) ** 2 + CHIP**2 / 12  # cm^2
PMT_SPREAD: Final = PMT_RADIUS**2 / 4
NEAREST: Final = 0.1  # cm; a source is never closer to a sensor
ABSORPTION: Final = 120.0  # cm
RAYLEIGH: Final = 37.0  # cm
SCATTERED: Final = 4.0 * math.pi * (math.pi / 16.0) / RAYLEIGH
"""Fluence pi / (16 r lambda) of light scattered once, in units of 1 / (4 pi r)."""


class Sensors(NamedTuple):
    """What the light map knows of M sensors, the same for all events (M,) or for each (B, M)."""

    x: Tensor  # cm
    y: Tensor
    z: Tensor
    normal_x: Tensor
    normal_y: Tensor
    normal_z: Tensor
    area: Tensor  # cm^2, over 4 pi
    spread: Tensor  # cm^2


class Share(NamedTuple):
    """Shares (B, K, M) of K sources' light, and how they change with the sources' places."""

    share: Tensor
    slope: tuple[Tensor, Tensor, Tensor]  # d log(share) / d(x, y, z), 1/cm; approximate


class LightMap(nn.Module):
    """Shares of the light of sources that reach the sensors of one geometry."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        is_mppc = torch.from_numpy(IS_MPPC.copy())
        rows = torch.stack(
            [
                *_columns(geometry.position),
                *_columns(geometry.normal),
                torch.where(is_mppc, MPPC_AREA, PMT_AREA) / (4.0 * math.pi),
                torch.where(is_mppc, MPPC_SPREAD, PMT_SPREAD),
            ]
        )
        self.register_buffer("table", rows, persistent=False)  # (8, N)
        self.table: Tensor
        self.attenuation = nn.Parameter(torch.tensor(1.0 / ABSORPTION + 1.0 / RAYLEIGH))
        self.scattered = nn.Parameter(torch.tensor(SCATTERED))

    def all_sensors(self) -> Sensors:
        """Every sensor of the detector, in the order of the channels."""
        return Sensors(*self.table.unbind(0))

    def chosen(self, channel: Tensor) -> Sensors:
        """The sensors `channel` (B, M) of each event."""
        rows = self.table[:, channel.flatten()].reshape(self.table.shape[0], *channel.shape)
        return Sensors(*(row.unsqueeze(1) for row in rows.unbind(0)))

    def forward(self, xyz: Tensor, sensors: Sensors) -> Tensor:
        """Sources (B, K, 3) in cm to shares (B, K, M).

        Differences are taken before squares: expanding |x - p|^2 loses digits near a sensor.
        """
        dx, dy, dz = self._offsets(xyz, sensors)
        height = self._height(dx, dy, dz, sensors)
        square = (dx * dx + dy * dy + dz * dz).clamp(min=NEAREST**2)
        return self._share(square, height, sensors)

    def with_slope(self, xyz: Tensor, sensors: Sensors) -> Share:
        """The same with the direct light's slope in the sources' places."""
        dx, dy, dz = self._offsets(xyz, sensors)
        height = self._height(dx, dy, dz, sensors)
        square = (dx * dx + dy * dy + dz * dz).clamp(min=NEAREST**2)
        share = self._share(square, height, sensors)
        away = 1.0 / height.clamp(min=0.5)
        back = 3.0 / (square + sensors.spread) + self.attenuation * square.rsqrt()
        slope = (
            sensors.normal_x * away - back * dx,
            sensors.normal_y * away - back * dy,
            sensors.normal_z * away - back * dz,
        )
        return Share(share, slope)

    def _offsets(self, xyz: Tensor, sensors: Sensors) -> tuple[Tensor, Tensor, Tensor]:
        x, y, z = xyz.unsqueeze(-1).unbind(2)  # (B, K, 1) each
        return x - sensors.x, y - sensors.y, z - sensors.z

    def _height(self, dx: Tensor, dy: Tensor, dz: Tensor, sensors: Sensors) -> Tensor:
        height = dx * sensors.normal_x + dy * sensors.normal_y + dz * sensors.normal_z
        return height.clamp(min=0.0)

    def _share(self, square: Tensor, height: Tensor, sensors: Sensors) -> Tensor:
        near = (5.0 * height.square() / square - 3.0) * sensors.spread
        q = torch.maximum(square + near, 0.5 * sensors.spread)
        distance = square.sqrt()
        direct = height / (q * q.sqrt())
        incidence = 0.5 * height / distance + 0.125
        scattered = self.scattered * incidence / distance
        return sensors.area * torch.exp(-self.attenuation * distance) * (direct + scattered)


def _columns(vectors: NDArray[np.float64]) -> Tensor:
    return torch.tensor(vectors.T.copy(), dtype=torch.float32)
