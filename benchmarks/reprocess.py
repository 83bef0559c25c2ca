"""`xec reprocess` beside the engine alone, and two Dask workers beside two processes, as ratios.

Run: python benchmarks/reprocess.py [--events 4096] [--rounds 3] [--json FILE]

The engine alone is given batches that lie in memory, and its answers are thrown away;
reprocessing reads, answers, writes, reads back and publishes. The engine runs before and after it,
and the mean of both is what it is compared with, as the machine may be busy otherwise. Rates of
processes are those while both work: from the first part to the third last, as starting is measured
by itself, and the last parts are made by one of two alone. Rounds take turns; ratios are their
medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from machine import machine
from xec.detector.geometry import parametric
from xec.engines.base import tensors_of
from xec.engines.onnx import OnnxEngine, usable_cores
from xec.event import EventBatch
from xec.io.events import open_event_writer
from xec.io.root import read_events
from xec_client.places import Backend, Embedded
from xec_client.reprocess.job import Job, reprocess
from xec_client.reprocess.local import InProcess
from xec_client.reprocess.manifest import read_manifest
from xec_client.reprocess.status import read_lineages

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "synthetic.root"
MODEL = ROOT / "model_repository"
FIELDS = ("run", "event", "npho", "time", "npho_valid", "time_valid")  # without truth
BATCH = 64
PART = 256  # events, small against a run, so that first and last part say when work began and ended
FILES = 4
KINDS = (".parquet", ".root")

XEC = (sys.executable, "-c", "from xec.cli import main; main()", "reprocess")


@dataclass(frozen=True)
class Opened(Embedded):
    """An engine that is loaded already, as starting is measured by itself."""

    backend: Backend | None = None

    @contextmanager
    def open(self) -> Iterator[Backend]:
        """The backend."""
        assert self.backend is not None
        yield self.backend


def write(folder: Path, sample: EventBatch, events: int) -> list[Path]:
    """Files of the sample's events again and again."""
    paths = []
    for number in range(FILES):
        path = folder / f"run{number:05d}.root"
        with open_event_writer(
            path, run=number, geometry_hash=parametric().hash, synthetic=True
        ) as writer:
            for first in range(0, events // FILES, len(sample)):
                part = sample[: events // FILES - first]
                writer.write(EventBatch(*(getattr(part, name) for name in FIELDS)))
        paths.append(path)
    return paths


def engine_rate(engine: OnnxEngine, sample: EventBatch, events: int) -> float:
    """Events/s of the engine alone."""
    batch = EventBatch.stack([list(sample)[i % len(sample)] for i in range(BATCH)])
    tensors = tensors_of(batch)
    start = time.perf_counter()
    for _ in range(events // BATCH):
        engine.infer(tensors)
    return events // BATCH * BATCH / (time.perf_counter() - start)


def reprocess_rate(place: Embedded, paths: list[Path], out: Path, suffix: str) -> float:
    """Events/s of reprocessing in this process, everything but loading the model included."""
    start = time.perf_counter()
    job = Job(paths, out, place, suffix=suffix, batch_size=BATCH)
    course = reprocess(job, InProcess(), lambda _: None)
    course.refuse_failed()
    return course.made / (time.perf_counter() - start)


def steady_rate(outs: Sequence[Path]) -> float:
    """Events/s from the first to the third last part of some output folders."""
    found = []
    for out in outs:
        (lineage,) = read_lineages(out, None)
        for run in read_manifest(lineage.folder).parts.values():
            for part in run.values():
                found.append(((lineage.folder / part.name).stat().st_mtime_ns, part.rows))
    found = sorted(found)[:-2]
    return sum(rows for _, rows in found[1:]) / ((found[-1][0] - found[0][0]) / 1e9)


def command(paths: Sequence[Path], out: Path, *options: str) -> list[str]:
    """The command line of a reprocessing."""
    common = ("--model", str(MODEL), "--part-events", str(PART), "--batch-size", str(BATCH))
    return [*XEC, *map(str, paths), "--out", str(out), "--quiet", *common, *options]


def dask_rate(paths: list[Path], out: Path) -> float:
    """Two workers of one core each."""
    subprocess.run(command(paths, out, "--cluster", "local:2", "--cores", "1"), check=True)
    return steady_rate([out])


def processes_rate(paths: list[Path], out: Path) -> float:
    """Two processes of one core each, each with half of the files."""
    outs = [out / "first", out / "second"]
    running = [
        subprocess.Popen(command(paths[n::2], each, "--cores", "1")) for n, each in enumerate(outs)
    ]
    assert [process.wait() for process in running] == [0, 0]
    return steady_rate(outs)


def seconds_to_first_part(paths: list[Path], out: Path, *options: str) -> float:
    """From the start of the program to its first part, of one batch."""
    start = time.perf_counter()
    process = subprocess.Popen(command(paths[:1], out, "--part-events", str(BATCH), *options))
    while not any(out.glob("*/run*.parquet")):
        assert process.poll() in {None, 0}
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    process.wait()
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Medians, and the median and range of the ratios of each round."""
    ratios = np.array(ours) / np.array(theirs)
    return {
        "events_per_s": float(np.median(ours)),
        "beside_events_per_s": float(np.median(theirs)),
        "ratio": float(np.median(ratios)),
        "lowest_ratio": float(ratios.min()),
        "highest_ratio": float(ratios.max()),
    }


def measure(folder: Path, events: int, rounds: int) -> dict[str, Any]:
    """All measurements, in turn within each round."""
    (sample,) = read_events(SAMPLE)
    paths = write(folder, sample, events)
    names = (*(kind + side for kind in KINDS for side in ("", " engine")), "dask", "processes")
    rates: dict[str, list[float]] = {name: [] for name in names}
    engine = OnnxEngine(MODEL)
    with Embedded(MODEL).open() as backend:
        place = Opened(MODEL, 0, backend)
        for n in range(rounds):
            before = engine_rate(engine, sample, events // 2)
            for suffix in KINDS:
                out = folder / f"here{suffix}{n}"
                rates[suffix].append(reprocess_rate(place, paths, out, suffix))
                after = engine_rate(engine, sample, events // 2)
                rates[f"{suffix} engine"].append((before + after) / 2)
                before = after
            rates["dask"].append(dask_rate(paths, folder / f"dask{n}"))
            rates["processes"].append(processes_rate(paths, folder / f"processes{n}"))
    engine.close()
    starts = {
        "in_process_s": [seconds_to_first_part(paths, folder / f"s{n}") for n in range(rounds)],
        "dask_s": [
            seconds_to_first_part(paths, folder / f"d{n}", "--cluster", "local:2")
            for n in range(rounds)
        ],
    }
    return {
        "parquet_beside_engine": ratio(rates[".parquet"], rates[".parquet engine"]),
        "root_beside_engine": ratio(rates[".root"], rates[".root engine"]),
        "dask_beside_processes": ratio(rates["dask"], rates["processes"]),
        "first_part": {name: float(np.median(seconds)) for name, seconds in starts.items()},
    }


def show(report: dict[str, Any]) -> None:
    """A table."""
    table = Table("measurement", "events/s", "beside it, events/s", "ratio", title="Reprocessing")
    for name in ("parquet_beside_engine", "root_beside_engine", "dask_beside_processes"):
        row = report[name]
        spread = f"{row['ratio']:.2f} ({row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f})"
        rates = (f"{row[key]:.0f}" for key in ("events_per_s", "beside_events_per_s"))
        table.add_row(name.replace("_", " "), *rates, spread)
    console = Console()
    console.print(table)
    for name, seconds in report["first_part"].items():
        console.print(f"start to first part of {BATCH} events, {name[:-2]}: {seconds:.1f} s")


def main() -> None:
    """Measure, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4096, help="in all files together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report = {
            "machine": {**machine(), "usable_cores": str(usable_cores())},
            "events": arguments.events,
            **measure(Path(name), arguments.events, arguments.rounds),
        }
    show(report)
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
