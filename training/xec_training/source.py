"""The simulated events that a training draws: wider than the signal, so that edges are inside.

No pile-up: where the second gamma is the brighter one, the truth of the first would dominate a
squared error.
"""

from __future__ import annotations

from typing import Final

from xec.simulation.generator import SimulationConfig
from xec.simulation.vertex import SourceConfig

TRAINING_ENERGY: Final = (12.0, 62.0)  # MeV, flat


def training_simulation() -> SimulationConfig:
    """Physics of the training events: flat energies, a dead map per event."""
    return SimulationConfig(source=SourceConfig(energy=TRAINING_ENERGY))


def signal_simulation() -> SimulationConfig:
    """Physics of the events that models are judged on: 52.8 MeV, no pile-up."""
    return SimulationConfig()
