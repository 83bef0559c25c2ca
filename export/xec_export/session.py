"""One export from the command line: load, convert, compare, judge, write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import onnx
from rich.console import Console

from xec.contract import MODEL_NAME
from xec.detector.geometry import Geometry, load_survey, parametric
from xec.engines.golden import golden_bytes
from xec.io.output import writing
from xec.models.checkpoint import Checkpoint, load_checkpoint
from xec.models.reconstructor import Reconstructor
from xec.simulation.generator import Generator, SimulationConfig
from xec_export.accuracy import require_accuracy
from xec_export.card import Origin, model_card, variant_card
from xec_export.engines import eager, scripted
from xec_export.events import contract_inputs
from xec_export.fuse import fused
from xec_export.golden import golden_events
from xec_export.half import half_encoder
from xec_export.onnx import to_onnx
from xec_export.options import ExportOptions
from xec_export.parity import runtime_of
from xec_export.parity_cases import BATCHES, Arrays
from xec_export.parity_report import Parity, parity_as_dict, parity_report, require_agreement
from xec_export.performance import Performance, measure
from xec_export.prune import graph_of
from xec_export.repository import Artefacts, write_model
from xec_export.torchscript import to_torchscript, torchscript_bytes

FRESH_SEED = 900_001  # far from any training's seeds


@dataclass(frozen=True, slots=True, eq=False)
class _Converted:
    """One model in its exported forms, and how they agree with the network."""

    name: str
    onnx: bytes
    torchscript: bytes | None
    half: bytes | None
    parity: list[Parity]


def run_export(
    checkpoint_folder: Path,
    repository: Path,
    version: str,
    card_events: int,
    survey: Path | None,
    options: ExportOptions | None = None,
) -> None:
    """Export a checkpoint; nothing is written unless every form of it agrees with PyTorch.

    Raises:
        ModelError: the checkpoint cannot be used, or an exported form does not agree.
        FileError: the repository cannot be written to.
    """
    options = options or ExportOptions()
    console = Console(stderr=True)
    geometry = parametric() if survey is None else load_survey(survey)
    model, checkpoint = load_checkpoint(checkpoint_folder, geometry)
    source = Generator(SimulationConfig(), geometry, "cpu", FRESH_SEED)
    fresh = contract_inputs(source.sample(max(BATCHES)))
    with console.status("converting to ONNX"):
        whole = to_onnx(fused(model), checkpoint, version)
        half = None
        if options.precision == "fp16":
            half = to_onnx(half_encoder(fused(model)), checkpoint, version)
    converted = []
    for name in options.models:
        with console.status(f"comparing {name} with PyTorch on fresh events"):
            converted.append(_convert(model, whole, half, name, options, fresh))
    performance = None
    if half is not None or MODEL_NAME in options.models:
        infer = runtime_of(whole.SerializeToString())
        performance = measure(infer, geometry, card_events, FRESH_SEED + 1, console)
    if half is not None and performance is not None:
        infer = runtime_of(half.SerializeToString())
        in_half = measure(infer, geometry, card_events, FRESH_SEED + 1, console)
        worst = max(require_accuracy(performance, in_half), key=lambda loss: loss.share)
        console.print(
            f"half precision: {worst.quantity} from {worst.full:.4g} to {worst.half:.4g} "
            f"{worst.unit}, {100 * worst.share:.0f} % of what is allowed; the rest costs less"
        )
    written = []
    for one in converted:
        card = _card(one, checkpoint, version, performance)
        written.append((one, _artefacts(one, model, geometry, card)))
    with writing(repository):
        for one, artefacts in written:
            folder = write_model(repository, version, artefacts)
            _say(console, folder, one)


def _convert(
    model: Reconstructor,
    whole: onnx.ModelProto,
    half: onnx.ModelProto | None,
    name: str,
    options: ExportOptions,
    fresh: Arrays,
) -> _Converted:
    """The exported forms of one model, after they have been compared."""
    onnx_bytes = graph_of(whole, name).SerializeToString()
    engines = {"ONNX Runtime": runtime_of(onnx_bytes, name)}
    script = None
    if options.torchscript:
        script = torchscript_bytes(to_torchscript(model, name))
        engines["TorchScript"] = scripted(script, name)
    rows = parity_report(eager(model), engines, fresh, name)
    require_agreement(rows)
    half_bytes = None if half is None else graph_of(half, name).SerializeToString()
    return _Converted(name, onnx_bytes, script, half_bytes, rows)


def _card(
    one: _Converted, checkpoint: Checkpoint, version: str, performance: Performance | None
) -> str:
    """The card; the metrics stand on that of the whole network, whose halves the others are."""
    if one.name != MODEL_NAME or performance is None:
        return variant_card(one.name, Origin.of(checkpoint), version, one.onnx, one.parity)
    return model_card(checkpoint, version, one.onnx, one.parity, performance)


def _artefacts(one: _Converted, model: Reconstructor, geometry: Geometry, card: str) -> Artefacts:
    report = json.dumps(parity_as_dict(one.parity), indent=2) + "\n"
    return Artefacts(
        model=one.name,
        geometry_hash=geometry.hash,
        onnx=one.onnx,
        golden=golden_bytes(golden_events(model, geometry, one.name)),
        parity=report.encode(),
        card=card,
        torchscript=one.torchscript,
        half=one.half,
    )


def _say(console: Console, folder: Path, one: _Converted) -> None:
    worst = require_agreement(one.parity)
    console.print(
        f"{folder}: {len(one.onnx) / 1e6:.1f} MB, worst difference to PyTorch "
        f"{worst.relative:.1e} ({worst.output}, {worst.case})"
    )
