"""Conventional estimates of the gamma inside the graph: what the heads correct.

Light sums per face, centre and width of the light on the inner face, the mean of the sensors'
times corrected for the light's flight, and the direction from the target's centre. They cost
almost nothing and leave the network only the difference to learn.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from xec.detector.channels import FACE_IDS, N_CHANNELS, N_MPPC, Face
from xec.detector.coordinates import REFF
from xec.detector.geometry import Geometry
from xec.units import SPEED_OF_LIGHT_CM_PER_NS

LIGHT_UNIT: Final = 1.0e4  # photons
WIDTH_UNIT: Final = 20.0  # cm
U_UNIT: Final = 24.0  # cm, edge of the fiducial volume
V_UNIT: Final = 68.0  # cm
DEPTH_GUESS: Final = 5.0  # cm, typical conversion depth
DEGREES_PER_RADIAN: Final = 57.29577951308232
MOMENT_FEATURES: Final = len(Face) + 8


class Moments(NamedTuple):
    """Estimates from sums of light, and the same as features of order one."""

    uv: Tensor  # (B, 2) cm, centre of the light squared on the inner face
    total: Tensor  # (B, 1) photons
    features: Tensor  # (B, MOMENT_FEATURES)


class LightMoments(nn.Module):
    """Moments of the light over the faces and over the inner face."""

    def __init__(self, uv_of_inner: Tensor) -> None:
        super().__init__()
        member = torch.zeros(N_CHANNELS, len(Face))
        for column, face in enumerate(Face):
            member[torch.from_numpy(FACE_IDS[face].copy()), column] = 1.0
        self.register_buffer("member", member, persistent=False)
        self.register_buffer("uv", uv_of_inner, persistent=False)  # (4092, 2) cm
        self.member: Tensor
        self.uv: Tensor

    def forward(self, npho: Tensor) -> Moments:
        """Filled counts (B, 4760) to moments; negative counts carry no light here."""
        light = npho.clamp(min=0.0)
        faces = light @ self.member  # (B, 6)
        total = faces.sum(1, keepdim=True)
        p = light[:, :N_MPPC]
        sum1 = p.sum(1, keepdim=True) + 1.0
        square = p * p
        sum2 = square.sum(1, keepdim=True) + 1.0
        uv, width = self._centre(square / sum2)
        wide = self._centre(p / sum1)[1]
        features = [
            torch.log1p(faces / LIGHT_UNIT),
            torch.log1p(total / LIGHT_UNIT),
            uv[:, :1] / U_UNIT,
            uv[:, 1:] / V_UNIT,
            width / WIDTH_UNIT,
            wide / WIDTH_UNIT,
            torch.log(sum2 / sum1.square()) / 4.0 + 1.0,
        ]
        return Moments(uv, total, torch.cat(features, dim=1))

    def _centre(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted centre and standard deviation in u, v, each (B, 2); weights sum to one."""
        rough = weight @ self.uv  # (B, 2)
        # Sums of small offsets: sums over the whole face would lose digits at large v.
        offset = self.uv - rough.unsqueeze(1)  # (B, 4092, 2)
        weight = weight.unsqueeze(-1)
        centre = rough + (weight * offset).sum(1)
        spread = (weight * offset.square()).sum(1).clamp(min=1e-4).sqrt()
        return centre, spread


class FlightTime(nn.Module):
    """Mean of the times, each less the light's flight from the conversion point, by light.

    The effective refractive index is learned; it starts at that of the group velocity found in
    simulated events.
    """

    def __init__(self, geometry: Geometry, index: float = 1.7) -> None:
        super().__init__()
        position = torch.tensor(geometry.position, dtype=torch.float32)
        self.register_buffer("position", position, persistent=False)  # (N, 3) cm
        self.position: Tensor
        self.index = nn.Parameter(torch.tensor(index))

    def forward(self, time: Tensor, light: Tensor, xyz: Tensor) -> Tensor:
        """Times (B, N) in ns with weights `light` (B, N) and points (B, 3) to (B, 1) ns."""
        distance = (self.position[None] - xyz[:, None]).square().sum(-1).clamp(min=1e-4).sqrt()
        flight = distance * (self.index / SPEED_OF_LIGHT_CM_PER_NS)
        return ((time - flight) * light).sum(1, keepdim=True) / (light.sum(1, keepdim=True) + 1e-6)


def xyz_of_uvw(uvw: Tensor) -> Tensor:
    """Global x, y, z in cm of u, v, w (B, 3); FACTS 2."""
    u, v, w = uvw.unbind(1)
    radius, angle = w + REFF, v / REFF
    return torch.stack([-radius * torch.cos(angle), radius * torch.sin(angle), u], dim=1)


def angles_of_xyz(xyz: Tensor) -> Tensor:
    """Theta and phi in degrees (B, 2) of the direction from the origin to x < 0 points (B, 3)."""
    x, y, z = xyz.unbind(1)
    across = torch.sqrt(x * x + y * y)
    theta = torch.pi / 2.0 - torch.atan(z / across)
    phi = torch.atan(y / (-x).clamp(min=1.0))
    return torch.stack([theta, phi], dim=1) * DEGREES_PER_RADIAN


def uvw_features(uvw: Tensor) -> Tensor:
    """Positions (B, 3) in cm as features of order one."""
    u, v, w = uvw.unbind(1)
    return torch.stack([u / U_UNIT, v / V_UNIT, w / WIDTH_UNIT], dim=1)
