"""Which sensors the network does not see in a training step, and which of them it must fill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xec.simulation.generator import SimulatedBatch


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Inputs of the network with sensors taken out, and where the losses apply.

    `hidden` marks sensors that were taken out although their reading is known; only these train
    the filling. `live` marks sensors that the network sees.
    """

    npho: Tensor  # (B, 4760)
    time: Tensor
    npho_valid: Tensor  # bool
    time_valid: Tensor  # bool
    hidden: Tensor  # bool
    live: Tensor  # bool

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The contract's four inputs."""
        return self.npho, self.time, self.npho_valid, self.time_valid


def hide(batch: SimulatedBatch, extra: float, generator: torch.Generator) -> Masked:
    """Take out the dead sensors, and in half of the events up to `extra` of the others.

    Args:
        batch: readings of all sensors, dead ones included.
        extra: largest additional fraction, drawn per event.
        generator: random numbers, on the batch's device.
    """
    B, N = batch.npho.shape
    device = batch.npho.device
    rate = torch.rand(B, 1, generator=generator, device=device) * (2.0 * extra) - extra
    more = torch.rand(B, N, generator=generator, device=device) < rate
    out = batch.dead | more
    npho_valid = batch.npho_valid & ~out
    time_valid = batch.time_valid & npho_valid
    zero = torch.zeros((), device=device)
    return Masked(
        npho=torch.where(npho_valid, batch.npho, zero),
        time=torch.where(time_valid, batch.time, zero),
        npho_valid=npho_valid,
        time_valid=time_valid,
        hidden=out & batch.npho_valid,
        live=npho_valid,
    )
