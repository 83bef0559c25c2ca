"""How many synthetic events per second the simulation makes, by threads, and where time goes.

Run: python benchmarks/simulation.py [--events 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from machine import machine
from xec.detector.geometry import parametric
from xec.simulation.electronics import Electronics
from xec.simulation.generator import Generator, SimulationConfig, draw_run_conditions
from xec.simulation.optics import Optics
from xec.simulation.shower import draw_deposits
from xec.simulation.vertex import draw_gammas

BATCH = 100
ROUNDS = 3  # the fastest round counts: the others had company


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds, after one to warm up."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def stages(config: SimulationConfig) -> dict[str, Callable[[], object]]:
    """Each stage for one batch, on inputs that the stages before it made."""
    rng = torch.Generator().manual_seed(1)
    gammas = draw_gammas(BATCH, config.source, rng)
    deposits = draw_deposits(gammas, config.shower, rng)
    optics = Optics(config.optics, parametric(), "cpu")
    electronics = Electronics(config.electronics, "cpu")
    light = optics.illuminate(deposits)
    run = draw_run_conditions(BATCH, config, rng)
    return {
        "vertex": lambda: draw_gammas(BATCH, config.source, rng),
        "shower": lambda: draw_deposits(gammas, config.shower, rng),
        "optics": lambda: optics.illuminate(deposits),
        "run": lambda: draw_run_conditions(BATCH, config, rng),
        "electronics": lambda: electronics.read(light, run.efficiency, run.gain, rng),
    }


def measure(threads: int, events: int) -> dict[str, Any]:
    """Rate of whole events, and the share of each stage, with `threads` threads."""
    torch.set_num_threads(threads)
    config = SimulationConfig()
    generator = Generator(config, parametric(), "cpu", seed=1)
    batches = max(1, events // BATCH)
    whole = fastest(lambda: [generator.sample(BATCH) for _ in range(batches)]) / batches
    seconds = {name: fastest(work) for name, work in stages(config).items()}
    share = {name: value / sum(seconds.values()) for name, value in seconds.items()}
    return {"threads": threads, "events_per_second": BATCH / whole, "share": share}


def table(results: list[dict[str, Any]]) -> Table:
    """The results as a table, one line per number of threads."""
    shown = Table("threads", "events/s", *results[0]["share"], title="xec simulation, CPU")
    for result in results:
        shares = [f"{100 * share:.0f} %" for share in result["share"].values()]
        rate = f"{result['events_per_second']:.0f}"
        shown.add_row(str(result["threads"]), rate, *shares)
    return shown


def main() -> None:
    """Measure with one and with two threads; print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1000, help="events per round")
    parser.add_argument("--json", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    results = [measure(threads, arguments.events) for threads in (1, 2)]
    where = {**machine(), "torch": torch.__version__}
    report = json.dumps({"machine": where, "batch": BATCH, "results": results}, indent=2)
    Console().print(table(results))
    print(report)
    if arguments.json:
        arguments.json.write_text(report + "\n")


if __name__ == "__main__":
    main()
