"""Loss of a direction by its distance on the sphere, which has no seam at phi = ±180°."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from xec.models.precision import at_least_float32

DEGREES_PER_RADIAN: Final = 180.0 / math.pi


def great_circle(mean: Tensor, target: Tensor, unit: float = 1.0) -> Tensor:
    """1 - cos of the great-circle distance, scaled to half its square in units for small ones.

    Directions are (-sin theta cos phi, sin theta sin phi, cos theta) (FACTS 2). With the
    haversine, sin²(d/2) = sin²(Δtheta/2) + sin theta sin theta' sin²(Δphi/2), no digits are lost
    near 0, and gradients are finite everywhere.

    Args:
        mean: theta and phi in degrees, any real numbers, (B, 2).
        target: the same, (B, 2).
        unit: distance that counts as one, degrees.

    Returns:
        (B,), float32 or float64, from 0 to 2 (57.3° / unit)².
    """
    theta, phi = torch.deg2rad(at_least_float32(mean)).unbind(1)
    true_theta, true_phi = torch.deg2rad(at_least_float32(target)).unbind(1)
    across = torch.sin(theta) * torch.sin(true_theta) * torch.sin(0.5 * (phi - true_phi)).square()
    haversine = torch.sin(0.5 * (theta - true_theta)).square() + across
    return 2.0 * (DEGREES_PER_RADIAN / unit) ** 2 * haversine
