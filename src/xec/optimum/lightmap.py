"""The simulation's light map with its derivatives in the deposits' places and energies.

The same formulas as `xec.simulation.optics.Optics`, in float64. The slope of the direct light of
a deposit at x seen by a sensor at p with normal n is

    dK/dx = A n + B (x - p),

but for the few sensors nearest to the deposit, whose exact solid angle has a closed derivative of
its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xec.detector.channels import INNER_GRID, IS_MPPC, N_MPPC
from xec.detector.geometry import Geometry
from xec.detector.solid_angle import PMT_RADIUS
from xec.simulation.optics import (
    BLOCK,
    CHIP_EDGES,
    MPPC_AREA,
    MPPC_SPREAD,
    PMT_AREA,
    PMT_SPREAD,
    OpticsConfig,
)

_EVENTS_AT_ONCE = 4  # a dozen buffers of 4 x D x 4760 float64


class Kernel(NamedTuple):
    """Light of M points of unit energy at N sensors, before the sensors' area and the yield."""

    value: Tensor  # (M, N)
    along_normal: Tensor  # (M, N) the factor A; 0 at the near sensors
    along_ray: Tensor  # (M, N) the factor B; 0 at the near sensors
    distance: Tensor  # (M, N) cm
    near: Tensor  # (M, K) ids of the near sensors
    near_slope: Tensor  # (M, K, 3) their whole slopes


class Slopes(NamedTuple):
    """Light of B events and its derivatives in D deposits' places and energies."""

    light: Tensor  # (B, N) photons
    place: Tensor  # (B, D, 3, N) photons/cm
    energy: Tensor  # (B, D, N) photons/MeV


class LightMap:
    """Expected photons of deposits in one geometry.

    Args:
        config: optical constants.
        geometry: positions and normals of the sensors.
        dtype: of the work inside. Distances from float32 are right to some 1e-3 cm^2, which is
            enough for chains and takes half the time.
    """

    def __init__(
        self, config: OpticsConfig, geometry: Geometry, dtype: torch.dtype = torch.float64
    ) -> None:
        self.config = config
        self.dtype = dtype
        is_mppc = torch.from_numpy(IS_MPPC.copy())
        self.position = torch.tensor(geometry.position, dtype=dtype)  # (N, 3)
        self.normal = torch.tensor(geometry.normal, dtype=dtype)
        self._spread = torch.where(is_mppc, MPPC_SPREAD, PMT_SPREAD).to(dtype)
        area = torch.where(is_mppc, MPPC_AREA, PMT_AREA).to(dtype)
        # Photons per unit of the kernels below, which leave out area and yield.
        self.photons = area * (config.light_yield * config.collection / (4.0 * math.pi))
        self._plane = (self.normal * self.position).sum(1)
        self._square = self.position.square().sum(1)
        self._edges = torch.tensor(CHIP_EDGES, dtype=dtype)
        self._rows = _line(torch.atan2(self.position[:N_MPPC, 1], -self.position[:N_MPPC, 0]), 0)
        self._columns = _line(self.position[:N_MPPC, 2], 1)
        self._block = torch.from_numpy(INNER_GRID[:BLOCK, :BLOCK].ravel().copy())
        self.attenuation = 1.0 / config.absorption_length + 1.0 / config.rayleigh_length

    def light(self, xyz: Tensor, energy: Tensor) -> Tensor:
        """Expected photons (B, N) of deposits at (B, D, 3) cm with (B, D) MeV; differentiable."""
        xyz, energy = xyz.to(self.dtype), energy.to(self.dtype)
        parts = [_direct_light(self, xyz[rows], energy[rows]) for rows in _pieces(len(energy))]
        diffuse = self._diffuse(*centre_of(xyz, energy))
        return self.photons * (torch.cat(parts) + diffuse)

    def slopes(self, xyz: Tensor, energy: Tensor) -> Slopes:
        """Light and its derivatives."""
        xyz, energy = xyz.to(self.dtype), energy.to(self.dtype)
        B, D = energy.shape
        kernel = self.kernel(xyz.reshape(B * D, 3))
        value = kernel.value.view(B, D, -1)
        slope = self.dense(kernel, xyz.reshape(B * D, 3)).view(B, D, 3, -1)
        centre, total = centre_of(xyz, energy)
        diffuse, toward = self.diffuse_slope(centre, total)  # (B, N), (B, 3, N)
        share = (energy / total)[..., None, None]
        place = energy[..., None, None] * slope + share * toward.unsqueeze(1)
        away = (xyz - centre.unsqueeze(1)) / total.unsqueeze(-1)  # (B, D, 3)
        per_energy = value + (diffuse / total).unsqueeze(1) + away @ toward
        light = (energy.unsqueeze(1) @ value).squeeze(1) + diffuse
        photons = self.photons
        return Slopes(light * photons, place * photons, per_energy * photons)

    def kernel(self, xyz: Tensor) -> Kernel:
        """Direct light of points (M, 3) and the factors of its slopes."""
        spread, loss = self._spread, self.attenuation
        square = (xyz.square().sum(-1, keepdim=True) - 2.0 * xyz @ self.position.T) + self._square
        square = square.clamp_(min=0.01)
        height = (xyz @ self.normal.T - self._plane).clamp_(min=0.0)
        tilt = height.square() / square
        q = torch.maximum(square + (5.0 * tilt - 3.0) * spread, 0.5 * spread)
        distance = square.sqrt()
        bare = torch.exp(-loss * distance) / (q * q.sqrt())
        value = bare * height
        across = value / q
        along_normal = bare - 15.0 * spread * across * height / square
        along_normal *= height > 0
        along_ray = across * (15.0 * spread * tilt / square - 3.0) - value * loss / distance
        near, exact, exact_slope = self._near(xyz)
        ray = xyz.unsqueeze(1) - self.position[near]
        reach = distance.gather(1, near)
        fade = torch.exp(-loss * reach)
        exact = exact * fade
        near_slope = exact_slope * fade.unsqueeze(-1) - (loss * exact / reach).unsqueeze(-1) * ray
        value.scatter_(1, near, exact)
        along_normal.scatter_(1, near, 0.0)
        along_ray.scatter_(1, near, 0.0)
        return Kernel(value, along_normal, along_ray, distance, near, near_slope)

    def pull_back(self, kernel: Kernel, xyz: Tensor, weight: Tensor) -> Tensor:
        """Sum (M, 3) over sensors of `weight` (M, N) times the slopes at `xyz` (M, 3)."""
        normal, ray = kernel.along_normal * weight, kernel.along_ray * weight
        near = (kernel.near_slope * weight.gather(1, kernel.near).unsqueeze(-1)).sum(1)
        return normal @ self.normal + ray.sum(-1, keepdim=True) * xyz - ray @ self.position + near

    def dense(self, kernel: Kernel, xyz: Tensor) -> Tensor:
        """The slopes (M, 3, N) themselves."""
        slope = kernel.along_normal.unsqueeze(1) * self.normal.T
        slope += kernel.along_ray.unsqueeze(1) * (xyz.unsqueeze(-1) - self.position.T)
        near = kernel.near.unsqueeze(1).expand(-1, 3, -1)
        return slope.scatter_(2, near, kernel.near_slope.mT)

    def _near(self, xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (M, K) of the inner sensors nearest to (M, 3); solid angle / area and its slope."""
        x, y, z = xyz.unbind(-1)
        rows, columns = INNER_GRID.shape
        row = _nearest_start(torch.atan2(y, -x), self._rows, rows)
        column = _nearest_start(z, self._columns, columns)
        near = (row * columns + column).unsqueeze(-1) + self._block
        normal = self.normal[near]
        first, second = _axes(normal)
        offset = xyz.unsqueeze(1) - self.position[near]
        value, slope = _chips(
            (offset * first).sum(-1),
            (offset * second).sum(-1),
            (offset * normal).sum(-1),
            self._edges,
        )
        axes = torch.stack([first, second, normal], dim=-2)
        return near, value / MPPC_AREA, (slope.unsqueeze(-2) @ axes).squeeze(-2) / MPPC_AREA

    def _diffuse(self, centre: Tensor, total: Tensor) -> Tensor:
        """Light (B, N) scattered at least once of (B, 1) MeV around `centre` (B, 3)."""
        return self._diffuse_parts(centre, total)[0]

    def _diffuse_parts(self, centre: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        config = self.config
        square = centre.square().sum(-1, keepdim=True) - 2.0 * centre @ self.position.T
        distance = (square + self._square).clamp(min=PMT_SPREAD).sqrt()
        height = (centre @ self.normal.T - self._plane).clamp(min=0.0)
        strength = 4.0 * math.pi * (math.pi / 16.0) / config.rayleigh_length
        base = total * strength * torch.exp(-self.attenuation * distance) / distance
        forward, even = config.diffuse_cosine, 0.25 * (1.0 - config.diffuse_cosine)
        return base * (forward * height / distance + even), base, distance, height

    def diffuse_slope(self, centre: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """The scattered light (B, N) and its slope (B, 3, N) in its centre."""
        light, base, distance, height = self._diffuse_parts(centre, total)
        forward = self.config.diffuse_cosine * base / distance
        along_normal = forward * (height > 0)
        along_ray = -(light * (self.attenuation + 1.0 / distance) + forward * height / distance)
        along_ray = along_ray / distance
        along_ray *= distance > PMT_RADIUS / 2.0 * (1.0 + 1e-9)
        ray = centre.unsqueeze(-1) - self.position.T
        return light, along_normal.unsqueeze(1) * self.normal.T + along_ray.unsqueeze(1) * ray


class _DirectLight(torch.autograd.Function):
    """Direct light (B, N) of deposits, with the closed derivative."""

    @staticmethod
    def forward(ctx: Any, light_map: LightMap, xyz: Tensor, energy: Tensor) -> Tensor:
        B, D = energy.shape
        kernel = light_map.kernel(xyz.reshape(B * D, 3))
        ctx.light_map = light_map
        ctx.save_for_backward(xyz, energy, *kernel)
        return (energy.unsqueeze(1) @ kernel.value.view(B, D, -1)).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        (gradient,) = gradients
        xyz, energy, *parts = ctx.saved_tensors
        kernel = Kernel(*parts)
        B, D = energy.shape
        of_energy = (kernel.value.view(B, D, -1) @ gradient.unsqueeze(-1)).squeeze(-1)
        weight = gradient.unsqueeze(1).expand(B, D, -1).reshape(B * D, -1)
        pulled = ctx.light_map.pull_back(kernel, xyz.reshape(B * D, 3), weight)
        return None, pulled.view(B, D, 3) * energy.unsqueeze(-1), of_energy


def _direct_light(light_map: LightMap, xyz: Tensor, energy: Tensor) -> Tensor:
    light: Tensor = _DirectLight.apply(light_map, xyz, energy)  # type: ignore[no-untyped-call]
    return light


def _pieces(count: int) -> list[slice]:
    return [slice(i, i + _EVENTS_AT_ONCE) for i in range(0, count, _EVENTS_AT_ONCE)]


def centre_of(xyz: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid (B, 3) of the deposits and their energy (B, 1)."""
    total = energy.sum(1, keepdim=True).clamp(min=1e-6)
    return (energy.unsqueeze(-1) * xyz).sum(1) / total, total


def _axes(normal: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors along the azimuth and across it, in the planes of inner sensors."""
    nx, ny, nz = normal.unbind(-1)
    across = torch.hypot(nx, ny)
    first = torch.stack([-ny, nx, torch.zeros_like(nx)], dim=-1) / across.unsqueeze(-1)
    second = torch.stack([-nz * nx / across, -nz * ny / across, across], dim=-1)
    return first, second


def _chips(first: Tensor, second: Tensor, height: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Solid angle (...) of four chips and its slope (..., 3) in the point's coordinates.

    Sum over the corners of +-atan(X Y / (h R)), whose derivatives are Y h / ((X^2 + h^2) R),
    X h / ((Y^2 + h^2) R) and -X Y (R^2 + h^2) / ((X^2 + h^2) (Y^2 + h^2) R).
    """
    above = height > 0
    X = edges.view(-1, 1) - first[..., None, None]
    Y = edges.view(1, -1) - second[..., None, None]
    h = height.clamp(min=1e-4)[..., None, None]
    xh, yh = X * X + h * h, Y * Y + h * h
    R = (xh + Y * Y).sqrt()
    sign = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=edges.dtype)
    weight = sign.view(-1, 1) * sign * above[..., None, None]
    terms = (
        torch.atan(X * Y / (h * R)),
        -Y * h / (xh * R),
        -X * h / (yh * R),
        -X * Y * (R * R + h * h) / (xh * yh * R),
    )
    value, *slope = ((term * weight).sum((-1, -2)) for term in terms)
    return value, torch.stack(slope, dim=-1)


def _line(place: Tensor, axis: int) -> tuple[float, float]:
    """Least-squares (slope, offset) of the grid index along `axis` by `place` (N_MPPC,)."""
    index = torch.arange(N_MPPC, dtype=place.dtype)
    columns = INNER_GRID.shape[1]
    index = index.div(columns, rounding_mode="floor") if axis == 0 else index.remainder(columns)
    centred = place - place.mean()
    slope = float((centred * index).sum() / centred.square().sum())
    return slope, float(index.mean() - slope * place.mean())


def _nearest_start(place: Tensor, line: tuple[float, float], count: int) -> Tensor:
    """First index of the BLOCK grid places around `place`, inside a grid of `count`."""
    nearest = torch.round(place * line[0] + line[1])
    return (nearest - BLOCK // 2).clamp(0, count - BLOCK).long()
