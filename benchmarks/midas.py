"""Events per second of reading MIDAS files, beside the same events in a ROOT file, as ratios.

Run: python benchmarks/midas.py [--events 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from machine import machine
from xec.detector.geometry import parametric
from xec.event import EventBatch
from xec.io.events import open_event_writer, open_events
from xec.io.midas.reader import MidasFile
from xec.io.root import read_events

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "synthetic.root"
NAMES = ("run.root", "run.mid", "run.mid.lz4", "run.mid.gz")
FIELDS = ("run", "event", "npho", "time", "npho_valid", "time_valid")  # without truth
CHUNK = 64
ROUNDS = 9  # in turn, the fastest of each counts: the others had company


def write(path: Path, sample: EventBatch, events: int) -> int:
    """A file of the sample's events again and again; its size in bytes."""
    run = int(sample.run[0])
    with open_event_writer(
        path, run=run, geometry_hash=parametric().hash, synthetic=True
    ) as writer:
        for first in range(0, events, len(sample)):
            part = sample[: events - first]
            writer.write(EventBatch(*(getattr(part, name) for name in FIELDS)))
    return path.stat().st_size


def as_events(path: Path) -> int:
    """Read to counts, times and validity, as a reconstruction needs them."""
    with open_events(path) as file:
        return sum(len(chunk) for chunk in file.chunks(CHUNK))


def as_banks(path: Path) -> int:
    """Read to arrays of the banks, without a look at their values."""
    with MidasFile(path) as file:
        return sum(1 for event in file if [bank.array() for bank in event.banks()])


def measure(folder: Path, events: int) -> list[dict[str, Any]]:
    """One row per kind of file and depth of reading, all measured in turn."""
    (sample,) = read_events(SAMPLE)
    sizes = {name: write(folder / name, sample, events) for name in NAMES}
    works: dict[tuple[str, str], Callable[[], int]] = {}
    for name in NAMES:
        works[name, "events"] = lambda path=folder / name: as_events(path)
        if name != "run.root":
            works[name, "banks"] = lambda path=folder / name: as_banks(path)
    fastest = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for key, work in works.items():
            start = time.perf_counter()
            if work() != events:
                raise RuntimeError(f"{key}: not all {events} events were read")
            fastest[key] = min(fastest[key], time.perf_counter() - start)
    root = fastest["run.root", "events"]
    return [
        {
            "file": name.removeprefix("run"),
            "read": depth,
            "kilobytes_per_event": sizes[name] / events / 1e3,
            "events_per_second": events / seconds,
            "times_root": root / seconds,
        }
        for (name, depth), seconds in fastest.items()
    ]


def table(rows: list[dict[str, Any]]) -> Table:
    """The results, one line each."""
    shown = Table("file", "read to", "kB/event", "events/s", "ratio to ROOT", title="Reading")
    for row in rows:
        shown.add_row(
            row["file"],
            row["read"],
            f"{row['kilobytes_per_event']:.1f}",
            f"{row['events_per_second']:.0f}",
            f"{row['times_root']:.2f}",
        )
    return shown


def main() -> None:
    """Write the files, read them in turn; print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1000, help="events in each file")
    parser.add_argument("--json", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.events)
    report = json.dumps({"machine": machine(), "chunk": CHUNK, "results": rows}, indent=2)
    Console().print(table(rows))
    print(report)
    if arguments.json:
        arguments.json.write_text(report + "\n")


if __name__ == "__main__":
    main()
