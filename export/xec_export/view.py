"""What leaves PyTorch: the network without masks, outputs in the contract's order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xec.contract import INPUTS, MODEL_NAME, outputs_of
from xec.models.reconstructor import Reconstructor


class ExportView(nn.Module):
    """A trained network as a function from the contract's inputs to a tuple of its outputs.

    Args:
        model: the network, plain or fused.
        name: of the exported model, which decides on the outputs; what only others need is never
            computed in the exported graph.
    """

    def __init__(self, model: Reconstructor, name: str = MODEL_NAME) -> None:
        super().__init__()
        self.model = model.eval()
        self.names = [tensor.name for tensor in outputs_of(name)]

    def forward(
        self, npho: Tensor, time: Tensor, npho_valid: Tensor, time_valid: Tensor
    ) -> tuple[Tensor, ...]:
        """Inputs (B, 4760) to outputs (B, width)."""
        outputs = self.model(npho, time, npho_valid, time_valid)
        return tuple(outputs[name] for name in self.names)


def example_inputs(batch: int) -> tuple[Tensor, ...]:
    """Inputs of the right shapes and dtypes for tracing; not physics."""
    floats = {"float32": torch.float32, "uint8": torch.uint8}
    return tuple(torch.ones(batch, t.width, dtype=floats[t.dtype]) for t in INPUTS)
