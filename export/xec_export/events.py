"""Simulated events as arrays of the contract."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xec.simulation.generator import SimulatedBatch


def contract_inputs(batch: SimulatedBatch) -> dict[str, NDArray[np.generic]]:
    """The contract's inputs, with the dead sensors taken out."""
    npho_valid = (batch.npho_valid & ~batch.dead).cpu().numpy()
    time_valid = (batch.time_valid & ~batch.dead).cpu().numpy() & npho_valid
    return {
        "npho": np.where(npho_valid, batch.npho.cpu().numpy(), np.float32(0)),
        "time": np.where(time_valid, batch.time.cpu().numpy(), np.float32(0)),
        "npho_valid": npho_valid.astype(np.uint8),
        "time_valid": time_valid.astype(np.uint8),
    }


def with_dark_events(inputs: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """The same inputs with their last two events dark: one live sensor, and all of them.

    What divides by the light that is seen must not divide by zero in the graph either.
    """
    dark = {name: values.copy() for name, values in inputs.items()}
    for name in ("npho", "time", "time_valid"):
        dark[name][-2:] = 0
    dark["npho_valid"][-2] = 0
    dark["npho_valid"][-2, 0] = 1
    dark["npho_valid"][-1] = 1
    return dark
