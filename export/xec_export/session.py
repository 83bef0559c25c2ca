"""One export from the command line: load, convert, compare, judge, write."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from xec.detector.geometry import load_survey, parametric
from xec.io.output import writing
from xec.models.checkpoint import load_checkpoint
from xec.simulation.generator import Generator, SimulationConfig
from xec_export.card import model_card
from xec_export.events import contract_inputs, with_dark_events
from xec_export.onnx import to_onnx
from xec_export.parity import BATCHES, compare, require_parity, runtime_of
from xec_export.performance import measure
from xec_export.repository import write_model

FRESH_SEED = 900_001  # far from any training's seeds


def run_export(
    checkpoint_folder: Path, repository: Path, version: str, card_events: int, survey: Path | None
) -> None:
    """Export a checkpoint; nothing is written unless the graph agrees with PyTorch.

    Raises:
        ModelError: the checkpoint cannot be used, or its graph does not agree.
        FileError: the repository cannot be written to.
    """
    console = Console(stderr=True)
    geometry = parametric() if survey is None else load_survey(survey)
    model, checkpoint = load_checkpoint(checkpoint_folder, geometry)
    with console.status("converting to ONNX"):
        onnx_bytes = to_onnx(model, checkpoint, version).SerializeToString()
    with console.status("comparing with PyTorch on fresh events"):
        source = Generator(SimulationConfig(), geometry, "cpu", FRESH_SEED)
        inputs = with_dark_events(contract_inputs(source.sample(max(BATCHES))))
        worst = require_parity(compare(model, onnx_bytes, inputs))
    performance = measure(runtime_of(onnx_bytes), geometry, card_events, FRESH_SEED + 1, console)
    card = model_card(checkpoint, version, onnx_bytes, worst, performance)
    with writing(repository):
        folder = write_model(repository, version, onnx_bytes, card)
    console.print(
        f"{folder}: {len(onnx_bytes) / 1e6:.1f} MB, worst difference to PyTorch "
        f"{worst.relative:.1e} ({worst.output})"
    )
