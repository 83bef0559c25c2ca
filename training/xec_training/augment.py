"""The detector's exact mirror symmetries, z -> -z and y -> -y, as augmentation.

Source: FACTS 1: both reflections map the 4760 sensors onto sensors.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from xec.detector.geometry import mirror_y, mirror_z
from xec.simulation.generator import SimulatedBatch

SENSOR_FIELDS = ("npho", "light", "time", "npho_valid", "time_valid", "dead")


class MirrorFlip:
    """Reflects whole batches; each reflection on its own with probability one half."""

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        self.generator = generator
        self.z = torch.from_numpy(mirror_z().copy()).to(device)
        self.y = torch.from_numpy(mirror_y().copy()).to(device)

    def __call__(self, batch: SimulatedBatch) -> SimulatedBatch:
        """A reflected view of the batch."""
        draw = torch.rand(2, generator=self.generator)
        if draw[0] < 0.5:
            batch = flip_z(batch, self.z)
        return flip_y(batch, self.y) if draw[1] < 0.5 else batch


def _permuted(batch: SimulatedBatch, permutation: Tensor) -> dict[str, Tensor]:
    return {name: getattr(batch, name)[:, permutation] for name in SENSOR_FIELDS}


def _signed(value: Tensor, *signs: float) -> Tensor:
    return value * value.new_tensor(signs)


def flip_z(batch: SimulatedBatch, permutation: Tensor) -> SimulatedBatch:
    """Z -> -z: u changes sign, theta becomes 180 - theta."""
    theta, phi = batch.angle.unbind(1)
    return replace(
        batch,
        **_permuted(batch, permutation),
        uvw=_signed(batch.uvw, -1, 1, 1),
        xyz=_signed(batch.xyz, 1, 1, -1),
        vertex=_signed(batch.vertex, 1, 1, -1),
        direction=_signed(batch.direction, 1, 1, -1),
        angle=torch.stack([180.0 - theta, phi], dim=1),
    )


def flip_y(batch: SimulatedBatch, permutation: Tensor) -> SimulatedBatch:
    """Y -> -y: v and phi change sign."""
    return replace(
        batch,
        **_permuted(batch, permutation),
        uvw=_signed(batch.uvw, 1, -1, 1),
        xyz=_signed(batch.xyz, 1, -1, 1),
        vertex=_signed(batch.vertex, 1, -1, 1),
        direction=_signed(batch.direction, 1, -1, 1),
        angle=_signed(batch.angle, 1, -1),
    )
