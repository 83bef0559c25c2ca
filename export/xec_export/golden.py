"""Golden events of an export: fresh synthetic events with the answers of the network in PyTorch."""

from __future__ import annotations

from typing import Final

import torch

from xec.contract import INPUTS, outputs_of
from xec.detector.geometry import Geometry
from xec.engines.golden import Golden
from xec.models.reconstructor import Reconstructor
from xec.simulation.generator import Generator, SimulationConfig
from xec_export.events import contract_inputs

GOLDEN_EVENTS: Final = 3
GOLDEN_SEED: Final = 900_003  # far from any training's seeds


@torch.no_grad()
def golden_events(model: Reconstructor, geometry: Geometry, name: str) -> Golden:
    """A few signal events with dead sensors, and what the plain network answers in float32.

    Args:
        model: the trained network, not its fused form.
        geometry: of the simulated detector.
        name: of the exported model, which decides on the outputs.
    """
    source = Generator(SimulationConfig(), geometry, "cpu", GOLDEN_SEED)
    inputs = contract_inputs(source.sample(GOLDEN_EVENTS))
    outputs = model(*(torch.from_numpy(inputs[t.name]) for t in INPUTS))
    return Golden(inputs, {t.name: outputs[t.name].numpy() for t in outputs_of(name)})
