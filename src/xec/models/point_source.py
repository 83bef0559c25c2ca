"""The light of a point source at every sensor: the conventional solid-angle method in the graph.

Small-sensor form of the solid angle, A cos(theta) / (4 pi r^2), scaled so that the visible
sensors' light adds up (FACTS 4, ratio of sums). It is a second guess beside the neighbours'
mean, good where a dead sensor is in front of the shower and its neighbours see much less.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xec.detector.channels import IS_MPPC
from xec.detector.geometry import Geometry
from xec.detector.solid_angle import CHIP, PMT_RADIUS

SOFTENING: Final = 0.5  # cm; keeps the light finite for a source on a sensor
MPPC_AREA: Final = 4.0 * CHIP**2  # cm^2
PMT_AREA: Final = math.pi * PMT_RADIUS**2
FRACTION_MIN: Final = 1e-6
"""Keeps 0 / 0 away where no visible sensor faces the source. ONNX's optimiser takes constants
below 1e-8 for zero and drops them from a sum, so that a smaller one would not reach the graph."""


class PointSource(nn.Module):
    """Expected counts from a point source, matched in total to the visible counts."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        is_mppc = torch.from_numpy(IS_MPPC.copy())
        area = torch.where(is_mppc, MPPC_AREA, PMT_AREA) / (4.0 * math.pi)
        self.register_buffer("position", _columns(geometry.position), persistent=False)  # (3, N)
        self.register_buffer("normal", _columns(geometry.normal), persistent=False)  # (3, N)
        self.register_buffer("area", area, persistent=False)  # (N,) cm^2
        self.position: Tensor
        self.normal: Tensor
        self.area: Tensor

    def forward(self, npho: Tensor, valid: Tensor, xyz: Tensor) -> Tensor:
        """Counts (B, N), visibility (B, N) and sources (B, 3) in cm to expected counts (B, N).

        Differences are taken before squares: expanding |x - p|^2 loses digits near a sensor.
        """
        dx, dy, dz = (xyz[:, i : i + 1] - self.position[i] for i in range(3))  # (B, N)
        height = dx * self.normal[0] + dy * self.normal[1] + dz * self.normal[2]
        distance2 = dx * dx + dy * dy + dz * dz + SOFTENING**2
        fraction = self.area * height.clamp(min=0.0) / (distance2 * torch.sqrt(distance2))
        seen = (npho.clamp(min=0.0) * valid).sum(1, keepdim=True)
        return fraction * (seen / ((fraction * valid).sum(1, keepdim=True) + FRACTION_MIN))


def _columns(vectors: NDArray[np.float64]) -> Tensor:
    return torch.tensor(vectors.T.copy(), dtype=torch.float32)
