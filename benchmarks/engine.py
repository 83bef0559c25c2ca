"""Events per second of the embedded engine, and of the network's forms beside each other.

Run: python benchmarks/engine.py [--checkpoint FOLDER | --preset NAME] [--json FILE]

Without PyTorch: the layouts of the engine (calls at a time, threads, batch) on `--model`. With a
checkpoint, or a preset with random weights (which is then what the engine runs), also: the fused
form against the canonical one in ONNX Runtime with one thread, the halves of the network, PyTorch,
and the share of the machine's rate of products, which is measured in the same rounds.

All subjects are measured in turn, several times over, and the best round of each counts, so that
whatever else the machine does falls on all of them. CPU time per event depends less on such
company than events per second. "order-dependent" counts outputs whose bits change when the same
events come in another order: only batches of one event leave them alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from machine import machine
from xec.contract import OUTPUTS
from xec.detector.channels import N_CHANNELS
from xec.engines.base import Tensors
from xec.engines.onnx import OnnxEngine, OnnxSettings, usable_cores

Infer = Callable[[Tensors], dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """How the cores are used: calls at a time, threads in each, events in each."""

    sessions: int
    threads: int
    batch: int

    def engine(self, repository: Path) -> OnnxEngine:
        """An engine with this layout."""
        settings = OnnxSettings(self.sessions, self.threads, self.batch)
        return OnnxEngine(repository, settings)


@dataclass
class Figure:
    """The best of several rounds."""

    events_per_second: float = 0.0
    cpu_ms_per_event: float = float("inf")

    def add(self, infer: Infer, events: Tensors) -> None:
        """Measure one more round."""
        count = len(events["npho"])
        wall, cpu = time.perf_counter(), time.process_time()
        infer(events)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.events_per_second = max(self.events_per_second, count / wall)
        self.cpu_ms_per_event = min(self.cpu_ms_per_event, 1e3 * cpu / count)


def random_events(count: int) -> Tensors:
    """Counts and times like those of a gamma in size; the speed does not depend on them."""
    random = np.random.default_rng(1)
    shape = (count, N_CHANNELS)
    live = random.random(shape) > 0.02
    npho = random.exponential(60, shape).astype(np.float32)
    return {
        "npho": np.where(live, npho, np.float32(0)),
        "time": random.normal(0, 5, shape).astype(np.float32),
        "npho_valid": live.astype(np.uint8),
        "time_valid": (live & (npho > 100)).astype(np.uint8),
    }


def layouts(cores: int, batches: list[int]) -> list[Layout]:
    """One thread per call and all cores busy; all cores in one call; one core."""
    ways = dict.fromkeys([(cores, 1), (1, cores), (1, 1)])
    return [Layout(*way, batch) for way in ways for batch in batches]


def changed_by_order(infer: Infer, events: Tensors) -> int:
    """Outputs that differ in any bit when the events come in reverse."""
    ahead = infer(events)
    back = infer({name: np.ascontiguousarray(values[::-1]) for name, values in events.items()})
    return sum(
        ahead[tensor.name].tobytes() != back[tensor.name][::-1].tobytes() for tensor in OUTPUTS
    )


def measure(subjects: dict[str, Infer], events: Tensors, rounds: int) -> dict[str, Figure]:
    """The figures of all subjects, measured in turn."""
    figures = {name: Figure() for name in subjects}
    for infer in subjects.values():
        infer(events)
    for _ in range(rounds):
        for name, infer in subjects.items():
            figures[name].add(infer, events)
    return figures


def table_of(rows: list[dict[str, Any]], where: dict[str, str]) -> Table:
    """The rows for people."""
    caption = ", ".join(f"{key} {value}" for key, value in where.items())
    table = Table(title="Embedded engine", caption=caption)
    columns = "calls at a time", "threads", "batch", "events/s", "CPU ms/event", "order-dependent"
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["sessions"]),
            str(row["threads"]),
            str(row["batch"]),
            f"{row['events_per_second']:.0f}",
            f"{row['cpu_ms_per_event']:.2f}",
            str(row.get("order_dependent", "")),
        )
    return table


def first_call(repository: Path, events: Tensors) -> dict[str, float]:
    """How long the first call takes after an engine is ready, in medians of the later ones."""
    engine = OnnxEngine(repository)
    one = {name: values[:1] for name, values in events.items()}
    seconds = []
    for _ in range(31):
        start = time.perf_counter()
        engine.infer(one)
        seconds.append(time.perf_counter() - start)
    engine.close()
    return {"first_over_median": seconds[0] / float(np.median(seconds[1:]))}


def arguments_of_command() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("model_repository"))
    parser.add_argument("--checkpoint", type=Path, help="of the model, for the forms; with PyTorch")
    parser.add_argument("--preset", help="random weights in place of --model and --checkpoint")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 3, 4, 8, 16, 32])
    parser.add_argument("--form-batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--events", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, write JSON."""
    arguments = arguments_of_command()
    cores = usable_cores()
    events = random_events(arguments.events)
    forms: dict[str, Infer] = {}
    counted, repository = 0, arguments.model
    with tempfile.TemporaryDirectory() as folder:
        if arguments.checkpoint or arguments.preset:
            import engine_forms  # noqa: PLC0415

            checkpoint, batches = arguments.checkpoint, arguments.form_batches
            network = (
                engine_forms.trained(checkpoint)
                if checkpoint
                else engine_forms.untrained(arguments.preset)
            )
            forms, counted = engine_forms.forms_of(network, batches, cores, Path(folder))
            repository = Path(folder) if arguments.preset else repository
        engines = {
            layout: layout.engine(repository) for layout in layouts(cores, arguments.batches)
        }
        first = first_call(repository, events)
    engine_subjects: dict[str, Infer] = {str(k): engine.infer for k, engine in engines.items()}
    figures = measure(engine_subjects | forms, events, arguments.rounds)
    rows = [
        {
            **asdict(layout),
            **asdict(figures[str(layout)]),
            "order_dependent": changed_by_order(engine.infer, events),
        }
        for layout, engine in engines.items()
    ]
    model = next(iter(engines.values())).model
    preset = model.metadata.get("preset", "")
    where = {**machine(), "onnxruntime": onnxruntime.__version__, "preset": preset}
    where["model"] = model.sha256[:12]
    report: dict[str, Any] = {"machine": where, "engine": rows, **first}

    console = Console()
    console.print(table_of(rows, where))
    console.print(f"first call over the median of later ones: {first['first_over_median']:.2f}")
    if forms:
        best = max(row["events_per_second"] for row in rows)
        found = {name: figures[name] for name in forms}
        report["forms"] = {name: asdict(figure) for name, figure in found.items()}
        rates = {name: figure.events_per_second for name, figure in found.items()}
        report |= engine_forms.compared(rates, best, counted, cores)
        engine_forms.print_forms(console, report)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
