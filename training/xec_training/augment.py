"""Augmentation: the detector's exact mirror symmetries, and noise on what the network sees.

Channel dropout, the third augmentation of the training, is the argument `extra` of
`xec_training.masking.hide`: sensors taken out that way are filled like dead ones.

Source of the symmetries: FACTS 1: z -> -z and y -> -y map the 4760 sensors onto sensors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from xec.detector.channels import N_CHANNELS
from xec.detector.geometry import mirror_y, mirror_z
from xec_training.data.batch import TrainingBatch
from xec_training.masking import Masked

SENSOR_FIELDS: Final = ("npho", "light", "time", "npho_valid", "time_valid", "dead")

Z: Final = 1
Y: Final = 2
IMAGES: Final = 4
"""An image is 0, Z, Y or Z + Y: which reflections it is made of."""


class MirrorFlip:
    """Reflects every event by itself; each reflection with probability one half.

    Args:
        device: of the batches.
        generator: random numbers, on that device: nothing waits for the host.
    """

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        self.generator = generator
        none = np.arange(N_CHANNELS)
        sensors = np.stack([none, mirror_z(), mirror_y(), mirror_z()[mirror_y()]])
        self._sensors = torch.from_numpy(sensors).to(device)  # (4, 4760)
        uvw = [[1, 1, 1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1]]
        self._uvw = torch.tensor(uvw, dtype=torch.float32, device=device)

    def __call__(self, batch: TrainingBatch) -> TrainingBatch:
        """A random image of each event."""
        device = self._uvw.device
        image = torch.randint(IMAGES, (len(batch),), generator=self.generator, device=device)
        return self.reflect(batch, image)

    def reflect(self, batch: TrainingBatch, image: Tensor) -> TrainingBatch:
        """Given images of the events; the same images of the result give the events back.

        That holds bit for bit, except that 180 - theta rounds theta to 1e-5 degrees.

        Z -> -z changes the sign of u and turns theta into 180 - theta; y -> -y changes the signs
        of v and phi.

        Args:
            batch: on the device of the flips.
            image: (B,) which image of each event, int64.
        """
        sensors = self._sensors[image]
        theta, phi = batch.angle.unbind(1)
        theta = torch.where((image & Z).bool(), 180.0 - theta, theta)
        phi = torch.where((image & Y).bool(), -phi, phi)
        known = batch.has_truth.unsqueeze(1)
        return replace(
            batch,
            **{name: getattr(batch, name).gather(1, sensors) for name in SENSOR_FIELDS},
            uvw=batch.uvw * self._uvw[image],
            # Without truth the angles stay 0.
            angle=torch.where(known, torch.stack([theta, phi], dim=1), batch.angle),
        )


def add_noise(masked: Masked, sigma_photons: float, generator: torch.Generator) -> Masked:
    """Gaussian noise on the counts that the network sees; targets are not in `Masked`.

    Args:
        masked: inputs.
        sigma_photons: standard deviation; 0 changes nothing and draws nothing.
        generator: random numbers, on the same device.
    """
    if sigma_photons == 0.0:
        return masked
    return replace(masked, npho=_noisy(masked.npho, masked.live, sigma_photons, generator))


def jitter_times(masked: Masked, sigma_ns: float, generator: torch.Generator) -> Masked:
    """Gaussian noise on the times that the network sees, each on its own.

    Args:
        masked: inputs.
        sigma_ns: standard deviation; 0 changes nothing and draws nothing.
        generator: random numbers, on the same device.
    """
    if sigma_ns == 0.0:
        return masked
    return replace(masked, time=_noisy(masked.time, masked.time_valid, sigma_ns, generator))


def _noisy(value: Tensor, valid: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(value.shape, generator=generator, device=value.device)
    return (value + sigma * noise).masked_fill(~valid, 0.0)
