"""How well the shipped model fills dead sensors and measures the gamma, on fresh synthetic events.

Run: python benchmarks/physics.py [--events 4000] [--seed 900002] [--json FILE]

The engine is the one that users get; the conventional methods run on the same events.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from machine import machine
from xec.detector.geometry import parametric
from xec.engines.onnx import OnnxEngine
from xec_export.card import performance_sections
from xec_export.performance import measure


def main() -> None:
    """Measure; print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("model_repository"))
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=900_002, help="the model card's by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    geometry = parametric()
    engine = OnnxEngine(arguments.model, geometry_hash=geometry.hash)
    console = Console(stderr=True)
    performance = measure(engine.infer, geometry, arguments.events, arguments.seed, console)
    where = {**machine(), "model": engine.model.sha256[:12], "synthetic": "true"}
    print(performance_sections(performance))
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    if arguments.json is not None:
        report = {"machine": where, "seed": arguments.seed, "performance": asdict(performance)}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
