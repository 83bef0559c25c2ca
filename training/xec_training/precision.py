"""Mixed precision: bfloat16 without, float16 with scaling of the loss.

Source: Micikevicius et al., arXiv:1710.03740. Heads, sums and losses stay in float32 inside the
network (`xec.models.precision`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor

from xec_training.settings import Precision

DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Autocast and loss scale of one training.

    Args:
        precision: fp32, bf16 or fp16.
        device: of the network.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.dtype = DTYPES.get(precision)
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def region(self) -> AbstractContextManager[object]:
        """Where the network's forward pass runs."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss whose gradients do not underflow."""
        return self.scaler.scale(loss) if self.scaler.is_enabled() else loss

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """True gradients, before they are clipped."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimiser)

    @property
    def may_overflow(self) -> bool:
        """Whether a gradient that is no number is expected now and then, and lowers the scale."""
        return self.scaler.is_enabled()

    def step(self, optimiser: torch.optim.Optimizer, finite: bool) -> None:
        """Make the optimiser's step unless a gradient is no number; adapt the scale."""
        if self.scaler.is_enabled():
            if finite:
                self.scaler.step(optimiser)
            self.scaler.update()
        elif finite:
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        if state:
            self.scaler.load_state_dict(state)
