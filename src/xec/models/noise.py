"""The noise of a reading as a function of its light: what no method can predict.

Var(n) = a n + p^2 + (g n)^2 photons^2 (METHODS, "Uncertainty"): photoelectron statistics with the
excess noise factor over the efficiency, the pedestal, and the spread of gains. The three numbers
of each kind of sensor are learned from readings; they start at values typical of the detector.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from xec.detector.channels import IS_MPPC

# (MPPC, PMT): excess noise 1.3 over PDE 0.12, and 1.2 over QE 0.16; half a photoelectron.
PHOTONS_PER_COUNT: Final = (1.3 / 0.12, 1.2 / 0.16)
PEDESTAL: Final = (0.5 / 0.12, 0.5 / 0.16)  # photons
GAIN_SPREAD: Final = (0.015, 0.015)


class ReadingNoise(nn.Module):
    """Variance of a reading around its expected light."""

    def __init__(self) -> None:
        super().__init__()
        start = torch.tensor([PHOTONS_PER_COUNT, PEDESTAL, GAIN_SPREAD])
        self.log_parameters = nn.Parameter(start.log())  # (3, 2): a, p, g of MPPC and PMT
        kind = torch.from_numpy(IS_MPPC.copy()).logical_not().long()
        self.register_buffer("kind", kind, persistent=False)  # (4760,) 0 MPPC, 1 PMT
        self.kind: Tensor

    def forward(self, npho: Tensor) -> Tensor:
        """Expected light (B, 4760) in photons to the variance (B, 4760) in photons^2."""
        a, p, g = self.log_parameters.exp().index_select(1, self.kind).unbind(0)
        light = npho.clamp(min=0.0)
        return a * light + p.square() + (g * light).square()
