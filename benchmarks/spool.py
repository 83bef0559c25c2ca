"""How long the source is held up by handing an event over, and how fast events become durable.

Latency of `offer` with nobody taking the events away: at the detector's rate and 20 times that, in
one burst, and while the disk hangs. Throughput to durable beside a plain file that is appended to
and synced as often, in turns; both as a ratio.

Run: python benchmarks/spool.py [--events 2000] [--folder FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from machine import machine
from xec.detector.channels import N_CHANNELS
from xec_client.daq.spool import EventId, Spool, SpoolSettings, SyncPolicy
from xec_client.daq.spool.files import DiskFiles

PAYLOAD = os.urandom(N_CHANNELS * 8)  # counts and times of one event, float32
ROUNDS = 7  # the time of an fsync varies by ten on a disk that others use as well
RATES = (30.0, 600.0)  # events/s
POLICIES = {"every event": SyncPolicy(events=1), "default": SyncPolicy()}


class HangingDisk(DiskFiles):
    """A disk that takes nothing more once it is told to hang."""

    def __init__(self) -> None:
        self.works = threading.Event()
        self.works.set()

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        """Wait until the disk works, then write."""
        self.works.wait()
        super().write_at(fd, data, offset)


def offer_times(spool: Spool, events: int, rate: float | None) -> np.ndarray[Any, Any]:
    """Seconds of each offer (events,); at a rate (None: one after the other), not caught up."""
    seconds = np.empty(events)
    for event in range(events):
        if rate is not None:
            time.sleep(1 / rate)
        start = time.perf_counter()
        spool.offer(EventId(1, event), PAYLOAD)
        seconds[event] = time.perf_counter() - start
    return seconds


def percentiles(seconds: np.ndarray[Any, Any]) -> dict[str, float]:
    """Milliseconds."""
    p50, p99, p999 = np.percentile(seconds, [50, 99, 99.9]) * 1e3
    return {"p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "worst_ms": seconds.max() * 1e3}


def latencies(folder: Path, events: int) -> list[dict[str, Any]]:
    """Of each way to offer."""
    results: list[dict[str, Any]] = []
    for rate in (*RATES, None):
        count = events if rate is None or rate > 100 else max(events // 4, 100)
        disk = HangingDisk()
        with Spool(folder / f"latency-{rate}", SpoolSettings(), disk) as spool:
            seconds = offer_times(spool, count, rate)
        way = "one burst" if rate is None else f"{rate:.0f} events/s"
        results.append({"way": way, "events": count, **percentiles(seconds)})
    disk = HangingDisk()
    with Spool(folder / "latency-hanging", SpoolSettings(memory_events=256), disk) as spool:
        disk.works.clear()
        seconds = offer_times(spool, events, RATES[-1])
        gaps = sum(gap.count for gap in spool.gaps)
        disk.works.set()
    way = f"{RATES[-1]:.0f} events/s, disk hangs"
    results.append({"way": way, "events": events, "gaps": gaps, **percentiles(seconds)})
    return results


def spool_seconds(folder: Path, events: int, policy: SyncPolicy) -> float:
    """From the first offer until all events are durable."""
    settings = SpoolSettings(memory_events=events, memory_bytes=1 << 40, sync=policy)
    with Spool(folder, settings) as spool:
        start = time.perf_counter()
        for event in range(events):
            spool.offer(EventId(1, event), PAYLOAD)
        while spool.watermarks.durable < events:
            time.sleep(0.0005)
        return time.perf_counter() - start


def plain_seconds(path: Path, events: int, policy: SyncPolicy) -> float:
    """The same bytes into one file, synced after as many events."""
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for event in range(1, events + 1):
            file.write(PAYLOAD)
            if event % policy.events == 0 or event == events:
                os.fsync(file.fileno())
    return time.perf_counter() - start


def throughput(folder: Path, events: int, name: str) -> dict[str, Any]:
    """Of the spool and of a plain file, in turns; the median round of each counts."""
    policy = POLICIES[name]
    count = max(events // 4, 100) if policy.events == 1 else events
    spool, plain = [], []
    for turn in range(ROUNDS):
        plain.append(plain_seconds(folder / f"plain-{name}-{turn}", count, policy))
        spool.append(spool_seconds(folder / f"spool-{name}-{turn}", count, policy))
    middle = [count / float(np.median(seconds)) for seconds in (spool, plain)]
    rates = {"spool_events_per_s": middle[0], "plain_events_per_s": middle[1]}
    ratios = sorted(theirs / ours for theirs, ours in zip(plain, spool, strict=True))
    spread = {"ratio": ratios[ROUNDS // 2], "lowest_ratio": ratios[0], "highest_ratio": ratios[-1]}
    return {"sync": name, "events": count, **rates, **spread}


def reading(folder: Path, events: int) -> dict[str, float]:
    """Opening a spool that holds so many events, and taking them all away."""
    place = folder / "reading"
    spool_seconds(place, events, SyncPolicy())

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    opened: list[Spool] = []
    opening = seconds(lambda: opened.append(Spool(place)))
    spool = opened[0]

    def drain() -> None:
        while taken := spool.take(64):
            spool.acknowledge(spooled.id for spooled in taken)

    taking = seconds(drain)
    spool.close()
    size = events * len(PAYLOAD) / 1e6
    return {"opening_mb_per_s": size / opening, "taking_events_per_s": events / taking}


def show(report: dict[str, Any]) -> None:
    """Two tables."""
    table = Table("offer", "p50 ms", "p99 ms", "p99.9 ms", "worst ms", title="Latency of offer")
    for row in report["latency"]:
        numbers = (row[key] for key in ("p50_ms", "p99_ms", "p999_ms", "worst_ms"))
        table.add_row(row["way"], *(f"{number:.3f}" for number in numbers))
    rates = Table("sync", "spool, events/s", "plain file, events/s", "ratio", title="To durable")
    for row in report["throughput"]:
        spool, plain = row["spool_events_per_s"], row["plain_events_per_s"]
        spread = f"{row['ratio']:.2f} ({row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f})"
        rates.add_row(row["sync"], f"{spool:.0f}", f"{plain:.0f}", spread)
    console = Console()
    console.print(table)
    console.print(rates)


def main() -> None:
    """Measure, print tables and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=2000, help="per measurement")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--json", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        report = {
            "machine": machine(),
            "payload_bytes": len(PAYLOAD),
            "latency": latencies(folder, arguments.events),
            "throughput": [throughput(folder, arguments.events, policy) for policy in POLICIES],
            "reading": reading(folder, arguments.events),
        }
    show(report)
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
