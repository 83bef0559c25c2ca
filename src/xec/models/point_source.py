"""The light of a point source at every sensor: the conventional solid-angle method in the graph.

Small-sensor form of the solid angle, A cos(theta) / (4 pi r^2), scaled so that the visible
sensors' light adds up (FACTS 4, ratio of sums). It is a second guess beside the neighbours'
mean, good where a dead sensor is in front of the shower and its neighbours see much less.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from xec.detector.channels import IS_MPPC
from xec.detector.geometry import Geometry
from xec.detector.solid_angle import CHIP, PMT_RADIUS

SOFTENING: Final = 0.5  # cm; keeps the light finite for a source on a sensor
MPPC_AREA: Final = 4.0 * CHIP**2  # cm^2
PMT_AREA: Final = math.pi * PMT_RADIUS**2


class PointSource(nn.Module):
    """Expected counts from a point source, matched in total to the visible counts."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        position = torch.tensor(geometry.position, dtype=torch.float64)
        normal = torch.tensor(geometry.normal, dtype=torch.float64)
        is_mppc = torch.from_numpy(IS_MPPC.copy())
        constants = {
            "position": position.T,  # (3, N) cm
            "square": position.square().sum(1),  # (N,)
            "normal": normal.T,  # (3, N)
            "plane": (position * normal).sum(1),  # (N,)
            "area": torch.where(is_mppc, MPPC_AREA, PMT_AREA) / (4.0 * math.pi),  # (N,) cm^2
        }
        for name, value in constants.items():
            self.register_buffer(name, value.float().contiguous(), persistent=False)
        self.position: Tensor
        self.square: Tensor
        self.normal: Tensor
        self.plane: Tensor
        self.area: Tensor

    def forward(self, npho: Tensor, valid: Tensor, xyz: Tensor) -> Tensor:
        """Counts (B, N), visibility (B, N) and sources (B, 3) in cm to expected counts (B, N)."""
        height = (xyz @ self.normal - self.plane).clamp(min=0.0)  # (B, N)
        distance2 = xyz.square().sum(1, keepdim=True) - 2.0 * (xyz @ self.position) + self.square
        distance2 = distance2.clamp(min=0.0) + SOFTENING**2
        fraction = self.area * height * distance2.pow(-1.5)
        seen = (npho.clamp(min=0.0) * valid).sum(1, keepdim=True)
        return fraction * (seen / ((fraction * valid).sum(1, keepdim=True) + 1e-9))
