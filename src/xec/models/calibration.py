"""Scale factors of the sigmas, measured on held-out events and applied inside the graph.

After METHODS, "Uncertainty that can be trusted", 2; how they are measured is in
`xec_training.calibrate`.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from xec.contract import ESTIMATES
from xec.detector.channels import N_CHANNELS

WIDTHS: Final = {e.sigma_name: 1 if e.width == N_CHANNELS else e.width for e in ESTIMATES}


class SigmaScale(nn.Module):
    """One factor per task (and per component of uvw and angle); all ones until calibrated."""

    def __init__(self) -> None:
        super().__init__()
        for name, width in WIDTHS.items():
            self.register_buffer(name, torch.ones(width))

    def forward(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Multiply each `*_sigma` of the contract's outputs by its factor."""
        factors = dict(self.named_buffers())
        return {
            name: value * factors[name] if name in factors else value
            for name, value in outputs.items()
        }
