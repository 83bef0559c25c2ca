"""How much light of each deposit reaches each sensor, and when.

Far from a sensor its solid angle is that of its active area with the second-order term of the
multipole expansion, resummed so that it stays finite:

    Omega = A h / (r^2 + s (5 h^2 / r^2 - 3))^(3/2)

with h the height above the sensor's plane, r the distance, s the mean square of one transverse
coordinate over the active area. The inner sensors nearest to a deposit get the exact four-chip
expression instead. Against the exact solid angles this is right to 0.4 % for MPPCs, and to
0.3 % for PMTs beyond 7 cm, 4 % beyond 4 cm; closer than that to a PMT lies less than 0.5 % of
the energy of gammas in the fiducial volume.

Light scattered once or more (Rayleigh) comes from a smooth cloud around the centroid of the
deposits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xec.detector.channels import INNER_GRID, IS_MPPC, N_CHANNELS, N_MPPC
from xec.detector.geometry import Geometry
from xec.detector.solid_angle import CHIP, CHIP_GAP, PMT_RADIUS
from xec.simulation.precision import full_float32
from xec.simulation.shower import Deposits
from xec.units import SPEED_OF_LIGHT_CM_PER_NS

CHIP_EDGES = (-CHIP_GAP / 2 - CHIP, -CHIP_GAP / 2, CHIP_GAP / 2, CHIP_GAP / 2 + CHIP)  # cm
MPPC_AREA = 4 * CHIP**2  # cm^2
MPPC_SPREAD = ((CHIP + CHIP_GAP) / 2) ** 2 + CHIP**2 / 12  # cm^2, mean square of one coordinate
PMT_AREA = math.pi * PMT_RADIUS**2
PMT_SPREAD = PMT_RADIUS**2 / 4
BLOCK = 5  # the nearest BLOCK x BLOCK inner sensors of a deposit are computed exactly

_CPU_EVENTS_AT_ONCE = 4  # three float buffers of 4 x D x 4760 stay in a core's caches
_DEVICE_EVENTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class OpticsConfig:
    """Optical constants of the xenon. Lengths in cm.

    Args:
        light_yield: scintillation photons per MeV.
        collection: share of them that counts, so that a signal gamma gives 100-300 sensors
            more than 100 photons (as in the experiment's files).
        absorption_length: of the xenon at 175 nm; infinity switches absorption off.
        rayleigh_length: scattering length; infinity switches scattering off.
        refractive_index: sets the speed of the light.
        diffuse_cosine: share of the diffuse light that arrives as if from the deposits.
        diffuse_stretch: path of diffuse light relative to the straight one.
    """

    light_yield: float = 40_000.0
    collection: float = 0.15
    absorption_length: float = 120.0
    rayleigh_length: float = 37.0
    refractive_index: float = 1.65
    diffuse_cosine: float = 0.5
    diffuse_stretch: float = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Illumination:
    """What arrives at each sensor."""

    light: Tensor  # (B, 4760) expected photons
    arrival: Tensor  # (B, 4760) ns after the conversion, mean over the light


class Optics:
    """The light map of one geometry on one device.

    Args:
        config: optical constants.
        geometry: positions and normals of the sensors.
        device: where it computes.
    """

    def __init__(
        self, config: OpticsConfig, geometry: Geometry, device: torch.device | str
    ) -> None:
        self.config = config
        position, normal = geometry.position, geometry.normal
        features = np.vstack([-2.0 * position.T, np.ones(N_CHANNELS), (position**2).sum(1)])
        height = np.vstack([normal.T, -(normal * position).sum(1)])

        def put(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)

        self._distance_features = put(features)  # (5, N): |x - p|^2 from (x, |x|^2, 1)
        self._height_features = put(height)  # (4, N): n.(x - p) from (x, 1)
        self._position, self._normal = put(position), put(normal)
        self._area = put(np.where(IS_MPPC, MPPC_AREA, PMT_AREA))
        self._spread = put(np.where(IS_MPPC, MPPC_SPREAD, PMT_SPREAD))
        self._edges = put(np.array(CHIP_EDGES))
        self._corner_sign = put(np.outer([-1, 1, -1, 1], [-1, 1, -1, 1]))
        self._row_fit, self._column_fit = _inner_grid_fit(position)
        grid = torch.from_numpy(INNER_GRID[:BLOCK, :BLOCK].ravel().copy())
        self._block = grid.to(device)  # ids of the block relative to its first sensor

    def illuminate(self, deposits: Deposits) -> Illumination:
        """Expected photons and mean arrival time at every sensor."""
        with full_float32(deposits.xyz.device):
            light, moment = self._direct(deposits)
            diffuse, diffuse_moment = self._diffuse(deposits)
        light += diffuse
        moment += diffuse_moment
        photons = light * (self._area * (self._emitted_per_mev / (4.0 * math.pi)))
        return Illumination(photons, moment / light.clamp_(min=1e-30))

    def _direct(self, deposits: Deposits) -> tuple[Tensor, Tensor]:
        """Energy-weighted solid angle per area of unscattered light, and its time moment.

        Both (B, N); a few events at a time, in one reused piece of memory.
        """
        B, D = deposits.energy.shape
        on_cpu = deposits.xyz.device.type == "cpu"
        step = min(B, _CPU_EVENTS_AT_ONCE if on_cpu else _DEVICE_EVENTS_AT_ONCE)
        work = deposits.xyz.new_empty(3, step * D, N_CHANNELS)
        light = deposits.xyz.new_empty(B, N_CHANNELS)
        moment = torch.empty_like(light)
        for first in range(0, B, step):
            rows = slice(first, min(first + step, B))
            part = Deposits(deposits.xyz[rows], deposits.energy[rows], deposits.delay[rows])
            light[rows], moment[rows] = self._direct_block(part, work)
        return light, moment

    @property
    def _emitted_per_mev(self) -> float:
        return self.config.light_yield * self.config.collection

    @property
    def _slowness(self) -> float:
        """Time of the light per path, ns/cm."""
        return self.config.refractive_index / SPEED_OF_LIGHT_CM_PER_NS

    def _direct_block(self, deposits: Deposits, work: Tensor) -> tuple[Tensor, Tensor]:
        """`_direct` of b events; `work` (3, >= b*D, N) is overwritten."""
        B, D = deposits.energy.shape
        xyz = deposits.xyz.reshape(B * D, 3)
        square, height, scratch = work[:, : B * D]
        one = torch.ones_like(xyz[:, :1])
        powers = torch.cat([xyz, (xyz * xyz).sum(-1, keepdim=True), one], dim=-1)
        torch.mm(powers, self._distance_features, out=square)
        torch.mm(torch.cat([xyz, one], dim=-1), self._height_features, out=height)
        square.clamp_(min=0.01)
        height.clamp_(min=0.0)
        _far_kernel(square, height, scratch, self._spread)
        ids, exact = self._near_kernel(xyz)
        height.scatter_(1, ids, exact)
        distance = square.sqrt_()
        torch.mul(distance, -self._attenuation, out=scratch).exp_()
        kernel = height.mul_(scratch).view(B, D, N_CHANNELS)
        weights = torch.stack([deposits.energy, deposits.energy * deposits.delay], dim=1)
        direct, delayed = torch.bmm(weights, kernel).unbind(1)
        path = distance.mul_(height).view(B, D, N_CHANNELS)
        flight = torch.bmm(deposits.energy.unsqueeze(1), path).squeeze(1)
        return direct, delayed + flight * self._slowness

    @property
    def _attenuation(self) -> float:
        """Loss of direct light per path, 1/cm."""
        return 1.0 / self.config.absorption_length + 1.0 / self.config.rayleigh_length

    def _near_kernel(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (M, BLOCK^2) of the inner sensors nearest to points (M, 3); exact Omega / A."""
        x, y, z = xyz.unbind(-1)
        rows, columns = INNER_GRID.shape
        row = _nearest_start(torch.atan2(y, -x), self._row_fit, rows)
        column = _nearest_start(z, self._column_fit, columns)
        ids = (row * columns + column).unsqueeze(-1) + self._block
        return ids, self._exact_mppc(xyz.unsqueeze(1), ids) / MPPC_AREA

    def _exact_mppc(self, xyz: Tensor, ids: Tensor) -> Tensor:
        """Solid angle (M, K), sr, of the four chips of inner sensors `ids` from `xyz`."""
        normal = self._normal[ids]
        offset = xyz - self._position[ids]
        height = (offset * normal).sum(-1)
        nx, ny, nz = normal.unbind(-1)
        across = torch.hypot(nx, ny)
        ox, oy, oz = offset.unbind(-1)
        first = (nx * oy - ny * ox) / across  # along the azimuth
        second = across * oz - nz * (nx * ox + ny * oy) / across  # along z, in the plane
        X = self._edges.view(-1, 1) - first[..., None, None]
        Y = self._edges.view(1, -1) - second[..., None, None]
        h = height.clamp(min=1e-4)[..., None, None]
        corners = torch.atan(X * Y / (h * (X * X + Y * Y + h * h).sqrt()))
        return (corners * self._corner_sign).sum((-1, -2)) * (height > 0)

    def _diffuse(self, deposits: Deposits) -> tuple[Tensor, Tensor]:
        """Like `_direct`, for light scattered at least once, from the deposits' centroid.

        The fluence of once-scattered light around a point source is pi / (16 r lambda); here in
        units of the direct 1 / (4 pi r^2).
        """
        config = self.config
        energy = deposits.energy.sum(1, keepdim=True)
        centre = (deposits.energy.unsqueeze(-1) * deposits.xyz).sum(1) / energy.clamp(min=1e-6)
        powers = torch.cat(
            [centre, (centre * centre).sum(-1, keepdim=True), torch.ones_like(energy)], dim=-1
        )
        distance = torch.mm(powers, self._distance_features).clamp_(min=PMT_SPREAD).sqrt_()
        height = torch.mm(powers[:, [0, 1, 2, 4]], self._height_features).clamp_(min=0.0)
        cosine = height / distance
        incidence = config.diffuse_cosine * cosine + 0.25 * (1.0 - config.diffuse_cosine)
        strength = 4.0 * math.pi * (math.pi / 16.0) / config.rayleigh_length
        fade = torch.exp(distance * -self._attenuation)
        light = energy * strength * incidence * fade / distance
        delay = (deposits.energy * deposits.delay).sum(1, keepdim=True) / energy.clamp(min=1e-6)
        return light, light * (delay + distance * (config.diffuse_stretch * self._slowness))


def _far_kernel(square: Tensor, height: Tensor, scratch: Tensor, spread: Tensor) -> None:
    """Turn `height` into Omega / A in place; `square` is r^2 and stays, `scratch` is used."""
    torch.mul(height, height, out=scratch)
    scratch.div_(square).sub_(0.6)
    torch.addcmul(square, scratch, 5.0 * spread, out=scratch)
    torch.maximum(scratch, 0.5 * spread, out=scratch)
    height.div_(scratch)
    height.div_(scratch.sqrt_())


def _inner_grid_fit(
    position: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(slope, offset) of the row by azimuth and of the column by z, fitted to the sensors."""
    inner = position[:N_MPPC]
    row, column = np.divmod(np.arange(N_MPPC), INNER_GRID.shape[1])
    azimuth = np.arctan2(inner[:, 1], -inner[:, 0])
    row_fit = np.polyfit(azimuth, row, 1)
    column_fit = np.polyfit(inner[:, 2], column, 1)
    return (float(row_fit[0]), float(row_fit[1])), (float(column_fit[0]), float(column_fit[1]))


def _nearest_start(place: Tensor, fit: tuple[float, float], count: int) -> Tensor:
    """First index of the BLOCK grid places around `place`, inside a grid of `count`."""
    nearest = torch.round(place * fit[0] + fit[1])
    return (nearest - BLOCK // 2).clamp_(0, count - BLOCK).long()
