"""Events per second and memory of one training step, and the share of waiting for data.

Run: python benchmarks/training.py [--device cuda] [--threads 2] [--all] [--json FILE]

The step is the trainer's own: forward, terms, backward, clipping, AdamW, average of the weights, on
events that are ready. Beside it, in turn with it and from the same weights, goes the same step
written canonically: the blocks as the ConvNeXt V2 paper's code has them, each loss as a plain
weighted mean, one clipping of all gradients. The ratio is the median of the repetitions' ratios,
and the first losses must agree. Memory is what a fresh process needs beyond the built network:
activations, gradients, the optimiser's state and the averaged weights.

Waiting for data is measured in a real training, after its first step and over more than two of
the windows that files are read in. Simulated events are made on the training's device in the same
process, so that their share is the cost of making them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from canonical import RATE, Step, canonical_step
from machine import machine
from xec.detector.geometry import parametric
from xec.simulation import event_file
from xec_training.data.batch import TrainingBatch
from xec_training.data.open import open_source
from xec_training.data.source import EventSource
from xec_training.memory import keep_freed_memory
from xec_training.processes import launched
from xec_training.settings import PretrainSettings, RegressSettings
from xec_training.settings_file import load_settings
from xec_training.stages import AnySettings, Plan, plan
from xec_training.tasks import Sample
from xec_training.trainer import Trainer

BATCHES: Final = {"base": 8, "small": 32, "tiny": 32}  # events per step
STAGES: Final[dict[str, Any]] = {"pretrain": PretrainSettings, "regress": RegressSettings}
MASKS: Final = {"pretrain": "masked", "regress": "mask-free"}
VARIANTS: Final = {
    "fp32": [],
    "bf16": ["training.amp=bf16"],
    "compile": ["training.compile=true"],
}
CANONICAL: Final = "canonical"
SEED: Final = 1
WARM_UP: Final = 2
FILES: Final = 2
EVENTS_PER_FILE: Final = 1200
MB: Final = 2**20


class Machine(NamedTuple):
    """Where and for how long to measure."""

    device: str
    threads: int
    repetitions: int
    steps: int


@dataclass(frozen=True)
class Case:
    """A network in a stage."""

    preset: str
    stage: str

    def settings(self, variant: str, source: str | list[str] = "sim:") -> AnySettings:
        """Of a training without random changes to its events."""
        overrides = [
            f"model.preset={self.preset}",
            f"data.source={json.dumps(source)}",
            f"training.batch_size={BATCHES[self.preset]}",
            f"training.seed={SEED}",
            "training.steps_per_epoch=1000000",
            "training.flip=false",
            *VARIANTS.get(variant, []),
        ]
        settings: AnySettings = load_settings(STAGES[self.stage], None, overrides)
        return settings

    def plan(self, variant: str) -> Plan:
        """With the same weights for every variant."""
        torch.manual_seed(SEED)
        return plan(self.settings(variant), parametric())


class Ready:
    """A source whose events are there already."""

    batches_per_epoch: Final = None

    def __init__(self, batch: TrainingBatch) -> None:
        self.batch = batch

    def next_batch(self) -> TrainingBatch:
        """Always the same events."""
        return self.batch


def our_step(fabric: Fabric, the_plan: Plan, sample: Sample, settings: AnySettings) -> Step:
    """The trainer's step, on a sample that is hidden already."""
    source = cast(EventSource, Ready(sample.batch))
    shown = replace(the_plan, mask=lambda *_: sample.masked)
    trainer = Trainer(fabric, shown, settings.training, source, source)
    return lambda: sum(trainer.step(RATE).values())


def sources(case: Case, fabric: Fabric, data: str | list[str]) -> EventSource:
    """As a training opens them."""
    return open_source(
        data,
        geometry=parametric(),
        device=fabric.device,
        seed=SEED,
        batch_size=BATCHES[case.preset],
        require_truth=case.stage == "regress",
    )


@contextmanager
def prepared(where: Machine) -> Iterator[Fabric]:
    """What `xec train` does before it begins."""
    keep_freed_memory()
    torch.set_num_threads(where.threads)
    with launched(where.device, []) as fabric:
        yield fabric


@torch.no_grad()
def awaken(model: nn.Module) -> None:
    """Random values where a fresh network has zeros: in its GRN, at the ends of its heads.

    With these zeros the first loss does not depend on the blocks, and agrees whatever they do.
    """
    torch.manual_seed(SEED)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.1)


def step_of(case: Case, variant: str, fabric: Fabric, the_plan: Plan) -> Step:
    """The step of a variant, all on the same events with the same sensors hidden."""
    batch = sources(case, fabric, "sim:").next_batch()
    rng = torch.Generator(fabric.device).manual_seed(SEED)
    sample = Sample(batch, the_plan.mask(batch, rng))
    settings = case.settings(variant)
    awaken(the_plan.model)
    if variant == CANONICAL:
        return canonical_step(the_plan, sample, settings)
    return our_step(fabric, the_plan, sample, settings)


def synchronised(fabric: Fabric) -> float:
    """The time, when the device has done what it was told."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(step: Step, fabric: Fabric) -> float:
    """Wall-clock time of one step."""
    start = synchronised(fabric)
    step()
    return synchronised(fabric) - start


def first_loss(step: Step) -> float:
    """Before any change of the weights; the same paths are dropped in every variant."""
    torch.manual_seed(SEED)
    return step()


def paired(case: Case, variants: list[str], where: Machine) -> dict[str, dict[str, float]]:
    """Rates, ratios to the canonical step and differences of the first loss, in turn."""
    with prepared(where) as fabric:
        steps = {v: step_of(case, v, fabric, case.plan(v)) for v in variants}
        losses = {variant: first_loss(step) for variant, step in steps.items()}
        times: dict[str, list[float]] = {variant: [] for variant in variants}
        for repetition in range(-WARM_UP, where.repetitions):
            for variant, step in steps.items():
                spent = seconds(step, fabric)
                if repetition >= 0:
                    times[variant].append(spent)
    return {
        variant: {
            "events_per_second": BATCHES[case.preset] / statistics.median(times[variant]),
            **spread_of(times[CANONICAL], times[variant]),
            "loss": losses[variant],
            "loss_difference": losses[variant] / losses[CANONICAL] - 1.0,
        }
        for variant in variants
    }


def spread_of(canonical: list[float], ours: list[float]) -> dict[str, float]:
    """Median and quartiles of the paired ratios: how many times as fast ours is."""
    ratios = [slow / fast for slow, fast in zip(canonical, ours, strict=True)]
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    return {"ratio": middle, "ratio_lower": lower, "ratio_upper": upper}


def memory(case: Case, variant: str, where: Machine) -> float:
    """Peak memory of three steps beyond that of the built network, MB."""
    with prepared(where) as fabric:
        the_plan = case.plan(variant)
        the_plan.model.to(fabric.device)
        built = used(fabric, "VmRSS")
        step = step_of(case, variant, fabric, the_plan)
        for _ in range(3):
            step()
        return used(fabric, "VmHWM") - built


def used(fabric: Fabric, line: str) -> float:
    """Memory in MB: now (VmRSS) or at its highest (VmHWM); on a GPU what tensors take of it.

    The high-water mark of getrusage is not that of this process: it outlives exec.
    """
    if fabric.device.type == "cuda":
        highest = torch.cuda.max_memory_allocated() if line == "VmHWM" else None
        return (torch.cuda.memory_allocated() if highest is None else highest) / MB
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    found = re.search(rf"{line}:\s+(\d+) kB", status.read_text())
    assert found is not None
    return 1024 * int(found[1]) / MB


def waiting(case: Case, data: str | list[str], where: Machine) -> dict[str, float]:
    """Share of a training's time that it waits for data."""
    with prepared(where) as fabric, closing(sources(case, fabric, data)) as source:
        settings = case.settings("fp32", data)
        trainer = Trainer(fabric, case.plan("fp32"), settings.training, source, source)
        steps = trainer.steps()
        next(steps)
        waited, start = trainer.counts.data_s, time.perf_counter()
        for _ in range(where.steps):
            next(steps)
        spent = time.perf_counter() - start
        return {
            "waiting": (trainer.counts.data_s - waited) / spent,
            "events_per_second": where.steps * BATCHES[case.preset] / spent,
        }


def in_fresh_process(work: Callable[..., Any], *given: Any) -> Any:
    """The result of `work`, which nothing before it has touched."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def measured_steps(cases: list[Case], variants: list[str], where: Machine) -> list[dict[str, Any]]:
    """A row for each case and variant."""
    rows = []
    for case in track(cases, "steps"):
        figures = in_fresh_process(paired, case, variants, where)
        for variant in variants:
            peak = in_fresh_process(memory, case, variant, where)
            row = {**asdict(case), "batch": BATCHES[case.preset], "variant": variant}
            rows.append({**row, **figures[variant], "memory_mb": peak})
    return rows


def measured_waiting(presets: list[str], where: Machine) -> list[dict[str, Any]]:
    """A row for each preset and kind of data."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        kinds: dict[str, str | list[str]] = {"sim:": "sim:", "ROOT files": [f"{folder}/*.root"]}
        pairs = [(preset, kind) for preset in presets for kind in kinds]
        for preset, kind in track(pairs, "waiting"):
            case = Case(preset, "regress")
            figures = in_fresh_process(waiting, case, kinds[kind], where)
            rows.append({**asdict(case), "data": kind, "batch": BATCHES[preset], **figures})
    return rows


def write_files(folder: Path) -> None:
    """Simulated events in the experiment's format."""
    for run in range(FILES):
        out = folder / f"run{run}.root"
        event_file.write(
            event_file.Request(
                events=EVENTS_PER_FILE,
                out=out,
                seed=run,
                run=run,
                energy=(12.0, 62.0),
                dead_list=None,
                pileup=0.0,
                device="cpu",
            )
        )


def table_of_steps(rows: list[dict[str, Any]], caption: str) -> Table:
    """The rows for people."""
    table = Table(title="One optimiser step", caption=caption)
    for name in ("network", "step", "events/s", "ratio", "quartiles", "MB", "loss"):
        table.add_column(name, justify="left" if name in ("network", "step") else "right")
    for row in rows:
        table.add_row(
            f"{row['preset']}, {MASKS[row['stage']]}",
            row["variant"],
            f"{row['events_per_second']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_lower']:.2f}-{row['ratio_upper']:.2f}",
            f"{row['memory_mb']:.0f}",
            f"{row['loss_difference']:+.0e}",
        )
    return table


def table_of_waiting(rows: list[dict[str, Any]]) -> Table:
    """The rows for people."""
    table = Table(title="Waiting for data")
    for name in ("network", "data", "events/s", "waiting"):
        table.add_column(name, justify="left" if name in ("network", "data") else "right")
    for row in rows:
        table.add_row(
            row["preset"],
            row["data"],
            f"{row['events_per_second']:.0f}",
            f"{row['waiting']:.1%}",
        )
    return table


def arguments_of_command() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch; one fears company least")
    parser.add_argument("--presets", nargs="+", choices=BATCHES, default=["base", "small"])
    parser.add_argument("--repetitions", type=int, default=12)
    parser.add_argument("--steps", type=int, default=72, help="of a training, for its waits")
    parser.add_argument("--amp", action="store_true", help="also in bfloat16")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    parser.add_argument("--all", action="store_true", help="both")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print tables, write JSON."""
    arguments = arguments_of_command()
    where = Machine(arguments.device, arguments.threads, arguments.repetitions, arguments.steps)
    variants = [CANONICAL, "fp32"]
    variants += ["bf16"] if arguments.amp or arguments.all else []
    variants += ["compile"] if arguments.compile or arguments.all else []
    cases = [Case(preset, stage) for preset in arguments.presets for stage in STAGES]
    facts = {**machine(), "torch": torch.__version__}
    steps = measured_steps(cases, variants, where)
    waits = measured_waiting(["small", "tiny"], where)
    settings = where._asdict()
    if arguments.device == "cuda":
        settings["device"] = torch.cuda.get_device_name()
    sizes = {f"batch of {preset}": BATCHES[preset] for preset in arguments.presets}
    caption = ", ".join(f"{k} {v}" for k, v in {**sizes, **settings, **facts}.items())
    console = Console()
    console.print(table_of_steps(steps, caption))
    console.print(table_of_waiting(waits))
    if arguments.json is not None:
        facts["load_after"] = machine()["load"]
        report = {"machine": facts, "settings": settings, "steps": steps, "waiting": waits}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
