"""Do all engines give the same answers? Eager PyTorch against TorchScript, ONNX Runtime, Triton.

Run: python benchmarks/parity.py --checkpoint FOLDER [--json FILE]

The checkpoint is exported into a temporary repository, from which a real Triton is started. Every
engine then answers the same fresh synthetic events: batches of 1, 7 and 64, an all-dead face, no
dead sensor, no light, markers where nothing is valid, and shuffled batch-mates.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from machine import machine
from xec.contract import MODELS
from xec.detector.geometry import parametric
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.engines.torch_engine import from_repository
from xec.engines.triton import CallSettings, TritonEngine
from xec.models.checkpoint import load_checkpoint
from xec.simulation.generator import Generator, SimulationConfig
from xec_export.engines import eager
from xec_export.events import contract_inputs
from xec_export.options import ExportOptions
from xec_export.parity_cases import BATCHES, Infer
from xec_export.parity_report import Parity, parity_as_dict, parity_report, require_agreement
from xec_export.session import FRESH_SEED, run_export
from xec_server.triton.launcher import TritonSettings, running


def engines_of(repository: Path, triton: TritonEngine, name: str) -> Mapping[str, Infer]:
    """Every engine that runs a model of a repository."""
    return {
        "TorchScript": from_repository(repository, name=name).infer,
        "ONNX Runtime": OnnxEngine(
            repository, OnnxSettings(largest_batch=max(BATCHES)), name=name
        ).infer,
        "the same, one event a call": OnnxEngine(
            repository, OnnxSettings(largest_batch=1), name=name
        ).infer,
        "Triton": triton.infer,
    }


def show(console: Console, name: str, rows: list[Parity]) -> None:
    """One table for each model: a row for each case, a column for each engine."""
    engines = list(dict.fromkeys(row.engine for row in rows))
    table = Table("case", *engines, title=f"{name}: largest difference to PyTorch, relative")
    for case in dict.fromkeys(row.case for row in rows):
        found = {row.engine: row for row in rows if row.case == case}
        table.add_row(case, *(f"{found[e].relative:.0e}" if e in found else "" for e in engines))
    console.print(table)


def main() -> None:
    """Export, start Triton, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=110)
    geometry = parametric()
    network, _ = load_checkpoint(arguments.checkpoint, geometry)
    fresh = contract_inputs(
        Generator(SimulationConfig(), geometry, "cpu", FRESH_SEED + 5).sample(max(BATCHES))
    )
    report: dict[str, Any] = {"machine": {**machine(), "synthetic": True}, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        options = ExportOptions(torchscript=True)
        run_export(arguments.checkpoint, repository, "1", 100, None, options)
        with running(TritonSettings(repository)) as triton:
            for name in MODELS:
                calls = CallSettings(largest_batch=max(BATCHES))
                with closing(TritonEngine(triton.address, repository, calls, name=name)) as engine:
                    engines = engines_of(repository, engine, name)
                    rows = parity_report(eager(network), engines, fresh, name)
                show(console, name, rows)
                worst = require_agreement(rows)
                console.print(f"worst: {worst.engine}, {worst.output}, {worst.relative:.1e}")
                report["models"][name] = parity_as_dict(rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
