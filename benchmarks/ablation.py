"""What each choice of the training is worth: networks that differ in one thing, at equal events.

Run: python benchmarks/ablation.py [--events 9600] [--judge 2000] [--only NAME ...] [--json FILE]

Every variant is trained by the real command with the same seed and events, then judged on the same
fresh signal events. Short trainings with one seed each: the repetition with another seed says how
large a difference must be to mean anything. `pretrained` had the masked pretraining besides, and
`filling first` a training of the filling alone, so half as many events more each. A file of
results with the same settings is added to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from machine import machine
from xec.contract import INPUTS
from xec.detector.geometry import parametric
from xec.models.checkpoint import load_checkpoint
from xec_export.performance import Infer, Performance, measure

JUDGE_SEED: Final = 900_007
VARIANTS: Final[dict[str, list[str]]] = {
    "reference": [],
    "another seed": ["training.seed=2"],
    "no steps of the light fit": ["model.fit_steps=0"],
    "six steps of the light fit": ["model.fit_steps=6"],
    "no mirror images": ["training.flip=false"],
    "dead sensors alone masked": ["model.mask_ratio=0", "model.bright_mask_ratio=0"],
    "no masks in the brightest light": ["model.bright_mask_ratio=0"],
    "up to 40 % masked": ["model.mask_ratio=0.4"],
    "squared errors": ["loss.npho.kind=mse"],
    "likelihood of the readings": ["loss.npho.kind=nll", "loss.npho.weight=0.5"],
    "noise floor": ["model.noise_floor=true"],
    "hexagonal mixer": ["model.graph_mixer=hexagonal"],
    "geometric positions": ["model.positions=geometric"],
    "squeeze and excitation": ["model.attention=se", "model.attention_placement=every"],
    "pretrained": [],
    "filling first": [],
    "batches of 16": ["training.batch_size=16"],
}

BEFORE: Final = {"pretrained": "pretrain", "filling first": "inpaint"}


def train(stage: str, out: Path, events: int, keys: list[str], start: Path | None = None) -> float:
    """Train by the command; returns its seconds."""
    every = [
        "training.epochs=1",
        "training.warmup_epochs=0.02",
        "data.validation_events=64",
        *(["calibration_events=512"] if stage == "regress" else []),
        *keys,
    ]
    command = [sys.executable, "-m", "xec", "train", stage, "--config", f"configs/{stage}.yaml"]
    command += ["--data", f"sim:{events}", "--threads", "1", "--out", str(out)]
    command += [part for key in every for part in ("--set", key)]
    command += ["--init", str(start)] if start else []
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - began


def variant(name: str, events: int, folder: Path) -> tuple[Path, float]:
    """The trained checkpoint of a variant and its seconds."""
    start, spent = None, 0.0
    before = BEFORE.get(name)
    if before is not None:
        start = folder / before
        spent = train(before, start, events // 2, [])
    out = folder / "regress"
    return out, spent + train("regress", out, events, VARIANTS[name], start)


def infer_of(folder: Path) -> Infer:
    """The trained network as a function of arrays."""
    model, _ = load_checkpoint(folder, parametric(), ("regress",))

    def infer(inputs: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        with torch.no_grad():
            outputs = model(*(torch.from_numpy(np.asarray(inputs[t.name])) for t in INPUTS))
        return {key: value.numpy() for key, value in outputs.items()}

    return infer


def row_of(found: Performance, seconds: float) -> dict[str, float]:
    """The figures that are compared."""
    filling = found.filling[0]
    sigma = {r.name: r.sigma68 for r in found.resolution}
    return {
        "mae": filling.mae,
        "rmse": filling.rmse,
        "rmse / noise": filling.rmse / found.noise_rmse,
        "energy MeV": sigma["energy"],
        "time ps": 1e3 * sigma["gamma_time"],
        "u mm": 10 * sigma["u"],
        "v mm": 10 * sigma["v"],
        "w mm": 10 * sigma["w"],
        "train s": seconds,
    }


def table_of(rows: dict[str, dict[str, float]], caption: str) -> Table:
    """The rows for people."""
    table = Table(title="One change at a time", caption=caption)
    table.add_column("variant")
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.3g}" for value in row.values()))
    return table


def rows_before(path: Path | None, settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What an earlier run with the same settings has measured."""
    if path is None or not path.exists():
        return {}
    report = json.loads(path.read_text())
    return report["variants"] if report["settings"] == settings else {}


def main() -> None:
    """Train and judge each; print a table after each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=9600, help="that each is trained on")
    parser.add_argument("--judge", type=int, default=2000, help="fresh events to judge on")
    parser.add_argument("--only", nargs="*", choices=sorted(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    where = {**machine(), "torch": torch.__version__}
    settings = {"events": arguments.events, "judge": arguments.judge, "synthetic": True}
    rows = rows_before(arguments.json, settings)
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            out, seconds = variant(name, arguments.events, Path(folder))
            quiet = Console(quiet=True)
            found = measure(infer_of(out), parametric(), arguments.judge, JUDGE_SEED, quiet)
        rows[name] = row_of(found, seconds)
        Console().print(table_of(rows, ", ".join(f"{k} {v}" for k, v in settings.items())))
        if arguments.json is not None:
            report: dict[str, Any] = {"machine": where, "settings": settings, "variants": rows}
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
