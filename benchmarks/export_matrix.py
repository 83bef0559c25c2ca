"""Does every combination of the network's options leave PyTorch with the same answer?

Run: python benchmarks/export_matrix.py [--json FILE]   (about twenty minutes)

Attention and its placement, codes of positions, graph mixers, spreads, noise floor: each
combination of the first three, and each of the last two beside the plain network, exported to ONNX
and to TorchScript and compared with PyTorch on simulated events (synthetic), two of them dark.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.progress import track

from machine import machine
from xec.detector.geometry import parametric
from xec.models.build import GraphMixer, ModelConfig, build_reconstructor, preset
from xec.models.checkpoint import Checkpoint
from xec.models.positions import PositionKind
from xec.models.reconstructor import Reconstructor, SpreadKind
from xec.models.stage import AttentionKind, GridAttention
from xec.simulation.generator import Generator, SimulationConfig
from xec_export.events import contract_inputs, with_dark_events
from xec_export.fuse import fused
from xec_export.onnx import to_onnx
from xec_export.parity import TOLERANCE, Difference, compare
from xec_export.torchscript import compare_torchscript, to_torchscript

BATCHES = (1, 7)


def combinations() -> list[ModelConfig]:
    """All of them, on the smallest preset."""
    tiny = preset("tiny")
    attention = [GridAttention("none", "none")] + [
        GridAttention(kind, placement)
        for kind, placement in product(get_args(AttentionKind), ("last", "every"))
        if kind != "none"
    ]
    networks = [
        replace(tiny, attention=a, positions=p, graph_mixer=m)
        for a, p, m in product(attention, get_args(PositionKind), get_args(GraphMixer))
    ]
    spreads = product(get_args(SpreadKind), (True, False))
    return networks + [replace(tiny, spread=s, noise_floor=n) for s, n in spreads]


def network(config: ModelConfig) -> Reconstructor:
    """A network in which nothing is zero."""
    torch.manual_seed(4)
    model = build_reconstructor(config, parametric()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim and not parameter.any():
                parameter.normal_(std=0.02)
    return model


def worst(differences: list[Difference]) -> float:
    """The largest of them."""
    return max(d.relative for d in differences)


def main() -> None:
    """Export and compare; print the worst, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    geometry = parametric()
    source = Generator(SimulationConfig(), geometry, "cpu", 41)
    inputs = with_dark_events(contract_inputs(source.sample(64)))
    rows = []
    configs = combinations()
    for config in track(configs, "exporting", console=Console(stderr=True)):
        model = network(config)
        proto = to_onnx(fused(model), Checkpoint(config, "tiny", geometry.hash), "1")
        rows.append(
            {
                "attention": config.attention.kind,
                "placement": config.attention.placement,
                "positions": config.positions,
                "graph_mixer": config.graph_mixer,
                "spread": config.spread,
                "noise_floor": config.noise_floor,
                "onnx": worst(compare(model, proto.SerializeToString(), inputs)),
                "torchscript": worst(
                    compare_torchscript(model, to_torchscript(model), inputs, BATCHES)
                ),
            }
        )
    for engine in ("onnx", "torchscript"):
        values = [row[engine] for row in rows]
        good = sum(value <= TOLERANCE for value in values)
        print(f"{engine}: {good} of {len(rows)} within {TOLERANCE:.0e}, worst {max(values):.1e}")
    where = machine()
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    if arguments.json is not None:
        report = {"machine": where, "synthetic": True, "tolerance": TOLERANCE, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if any(row[engine] > TOLERANCE for row in rows for engine in ("onnx", "torchscript")):
        sys.exit(1)


if __name__ == "__main__":
    main()
