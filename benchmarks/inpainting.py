"""Gathering of predictions at masked sensors: vectorised against a loop over events.

Run: python benchmarks/inpainting.py [--device cuda] [--batch 512] [--json FILE]

The loop is that of the specification ("Vectorized Tensor Operations"), once per face and event.
Both are timed in turn within one run, and the ratio is the median of the repetitions' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from machine import machine
from xec.models.inpainting import gather_graph, gather_grid

VALUES = 2  # per sensor: light and time
FACES = {
    "inner": (93, 44),
    "outer": (45, 72),
    "us": (24, 6),
    "ds": (24, 6),
    "top": (73,),
    "bottom": (73,),
}
PASSES = ("forward", "+ backward")
Gather = Callable[[Tensor, Tensor], Tensor]


def vectorised(values: Tensor, masked: Tensor) -> Tensor:
    """Values at the masked sensors, (B, K, V)."""
    gather = gather_grid if masked.ndim == 3 else gather_graph
    return gather(values, masked).values


def looped(values: Tensor, masked: Tensor) -> Tensor:
    """The same, event by event, with the indices and the mark of what is valid."""
    B, V = values.shape[:2]
    K = int(masked.flatten(1).sum(1).max())
    found = values.new_zeros(B, K, V)
    index = torch.zeros(B, K, masked.ndim - 1, dtype=torch.long, device=values.device)
    valid = torch.zeros(B, K, dtype=torch.bool, device=values.device)
    for b in range(B):
        place = masked[b].nonzero(as_tuple=False)
        n = place.shape[0]
        if n > 0:
            found[b, :n] = values[b][(slice(None), *place.unbind(1))].T
            index[b, :n] = place
            valid[b, :n] = True
    return found


def seconds(gather: Gather, faces: list[tuple[Tensor, Tensor]], backward: bool) -> float:
    """Wall-clock time of one pass over the faces."""
    device = faces[0][0].device
    start = time.perf_counter()
    for values, masked in faces:
        found = gather(values.requires_grad_(backward), masked)
        if backward:
            torch.autograd.grad(found.sum(), values)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def row_of(
    names: list[str], rate: float, backward: bool, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Medians over the repetitions, the two in turn."""
    generator = torch.Generator().manual_seed(1)
    faces = []
    for shape in (FACES[name] for name in names):
        values = torch.randn(arguments.batch, VALUES, *shape, generator=generator)
        masked = torch.rand(arguments.batch, *shape, generator=generator) < rate
        faces.append((values.to(arguments.device), masked.to(arguments.device)))
    for gather in (vectorised, looped):
        seconds(gather, faces, backward)
    pairs = [
        (seconds(vectorised, faces, backward), seconds(looped, faces, backward))
        for _ in range(arguments.repetitions)
    ]
    return {
        "faces": " ".join(names),
        "masked": rate,
        "pass": PASSES[backward],
        "vectorised_ms": 1e3 * statistics.median(fast for fast, _ in pairs),
        "loop_ms": 1e3 * statistics.median(slow for _, slow in pairs),
        "ratio": statistics.median(slow / fast for fast, slow in pairs),
    }


def table_of(rows: list[dict[str, Any]], caption: str) -> Table:
    """The rows for people."""
    table = Table(title="Gathering at masked sensors", caption=caption)
    for name in ("faces", "masked", "pass", "gather, ms", "loop, ms", "ratio"):
        table.add_column(name, justify="left" if name in ("faces", "pass") else "right")
    for row in rows:
        table.add_row(
            "all six" if row["faces"] == " ".join(FACES) else row["faces"],
            f"{row['masked']:.0%}",
            row["pass"],
            f"{row['vectorised_ms']:.1f}",
            f"{row['loop_ms']:.1f}",
            f"{row['ratio']:.1f}",
        )
    return table


def arguments_of_command() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.6])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = arguments_of_command()
    torch.set_num_threads(arguments.threads)
    subjects = [["inner"], ["outer"], ["us"], ["top"], list(FACES)]
    cases = [
        (names, rate, backward)
        for rate in arguments.rates
        for names in subjects
        for backward in (False, True)
    ]
    rows = [row_of(*case, arguments) for case in track(cases, "measuring")]
    device = arguments.device
    if device == "cuda":
        device = torch.cuda.get_device_name()
    settings = {"batch": arguments.batch, "threads": arguments.threads, "device": device}
    where = {**machine(), "torch": torch.__version__}
    caption = ", ".join(f"{key} {value}" for key, value in {**settings, **where}.items())
    Console().print(table_of(rows, caption))
    if arguments.json is not None:
        report = {"machine": where, "settings": settings, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
