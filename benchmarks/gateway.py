"""What the server and Triton cost beside the engine alone: ratios, measured side by side.

Run: python benchmarks/gateway.py [--model model_repository] [--triton] [--json FILE]

Each round measures every way once, so that whatever else the machine does falls on all of them;
a ratio is the median over the rounds of the way's events per second to those of the engine alone
in the same round. Processor time per event (of all processes but the client's; the last column is
the engine's to the way's) depends less on such company. Requests are encoded
beforehand, and answers not decoded: the client's own work, on the same cores, is not the server's.
`--triton` starts Triton on the same repository (its golden events are needed) and measures
TritonEngine and the gateway, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from engine import random_events
from machine import machine
from xec.engines.base import Tensors
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.event import EventBatch
from xec.wire import codec
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb

BATCH = 64
CALLERS = 16
AIMS = {
    "server, batches of 64": 0.90,
    "server, single events, 16 callers": 0.85,
    "Triton, batches of 64": 0.80,
}
METHOD = "/xec.v1.Reconstruction/"

Work = Callable[[], None]


@dataclass
class Way:
    """One way to have `events` events reconstructed, and whose CPU time it costs."""

    work: Work
    events: int
    processes: Sequence[int] = ()
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round."""
        wall, cpu = time.perf_counter(), self._cpu_seconds()
        self.work()
        wall, cpu = time.perf_counter() - wall, self._cpu_seconds() - cpu
        self.rates.append(self.events / wall)
        self.cpu_ms.append(1e3 * cpu / self.events)

    def _cpu_seconds(self) -> float:
        if not self.processes:
            return time.process_time()
        return sum(cpu_seconds(process) for root in self.processes for process in family(root))


def family(process: int) -> Iterator[int]:
    """A process and all that it started."""
    yield process
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        yield from family(int(child))


def cpu_seconds(process: int) -> float:
    """Processor time of a process so far, from its own clock (Linux)."""
    return time.clock_gettime((~process << 3) | 2)


def memory_mb(process: int) -> dict[str, float]:
    """Resident memory now and at its highest, in MB of 10^6 bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        name: int(status[key].split()[0]) * 1024 / 1e6
        for name, key in (("resident", "VmRSS"), ("highest", "VmHWM"))
    }


# --- requests ------------------------------------------------------------------------------------


def batch_of(inputs: Tensors) -> EventBatch:
    """The same events as the server's clients hold them."""
    count = len(inputs["npho"])
    return EventBatch(
        np.ones(count, dtype=np.int64),
        np.arange(count),
        inputs["npho"],
        inputs["time"],
        inputs["npho_valid"].astype(bool),
        inputs["time_valid"].astype(bool),
    )


def single_requests(batch: EventBatch) -> list[bytes]:
    """One request for each event; events mark their dead sensors themselves."""
    nothing = codec.dead_list_of_channels(np.zeros(batch.npho.shape[1], dtype=bool))
    return [
        pb.ReconstructRequest(
            event=codec.event_to_proto(event), dead_list=nothing
        ).SerializeToString()
        for event in batch
    ]


def batch_request(batch: EventBatch) -> bytes:
    """One request for all events."""
    nothing = codec.dead_list_of_channels(np.zeros(batch.npho.shape[1], dtype=bool))
    messages = [codec.event_to_proto(event) for event in batch]
    return pb.ReconstructBatchRequest(events=messages, dead_list=nothing).SerializeToString()


def callers(call: Callable[[Any], Any], requests: Sequence[Any], at_once: int) -> Work:
    """All requests, so many at a time."""
    threads = ThreadPoolExecutor(at_once)

    def work() -> None:
        for _ in threads.map(call, requests):
            pass

    return work


# --- servers -------------------------------------------------------------------------------------


@contextmanager
def server(model: Path, *arguments: str, first: str = "") -> Iterator[tuple[int, grpc.Channel]]:
    """`xec serve` in a process of its own, and a channel to it once it is ready.

    The process runs the Python text `first` before.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        code = f"{first}\nfrom xec.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--model", str(model), "--no-dead-list"]
        command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
                time.sleep(0.02)
            options = [
                ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
                ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
            ]
            with grpc.insecure_channel(ready.read_text().strip(), options) as channel:
                yield process.pid, channel
        finally:
            process.terminate()
            process.wait()


def first_to_median(model: Path, requests: Sequence[bytes], starts: int) -> dict[str, float]:
    """Time of the first request after ready to that of the median one, median of several starts.

    By the clock, and by the processor time of the server, which whatever else the machine does
    disturbs less. The connection is there before: its handshake is the client's matter.
    """
    ratios: dict[str, list[float]] = {"wall_ratio": [], "cpu_ratio": []}
    for _ in range(starts):
        with server(model) as (process, channel):
            grpc.channel_ready_future(channel).result(20)
            call = channel.unary_unary(f"{METHOD}Reconstruct")
            walls, cpus = [], []
            for request in requests:
                wall, cpu = time.perf_counter(), cpu_seconds(process)
                call(request)
                walls.append(time.perf_counter() - wall)
                cpus.append(cpu_seconds(process) - cpu)
            ratios["wall_ratio"].append(walls[0] / statistics.median(walls[1:]))
            ratios["cpu_ratio"].append(cpus[0] / statistics.median(cpus[1:]))
    return {name: statistics.median(values) for name, values in ratios.items()}


def ways_through(
    name: str, channel: grpc.Channel, batch: EventBatch, processes: Sequence[int], rounds: int
) -> dict[str, Way]:
    """Batches and single events through a server."""
    events = rounds * len(batch)
    batches = callers(
        channel.unary_unary(f"{METHOD}ReconstructBatch"), [batch_request(batch)] * rounds, 2
    )
    singles = callers(
        channel.unary_unary(f"{METHOD}Reconstruct"), single_requests(batch) * rounds, CALLERS
    )
    return {
        f"{name}, batches of {len(batch)}": Way(batches, events, processes),
        f"{name}, single events, {CALLERS} callers": Way(singles, events, processes),
    }


def rows_of(inputs: Tensors) -> list[Tensors]:
    """Each event by itself."""
    return [
        {name: values[row : row + 1] for name, values in inputs.items()}
        for row in range(len(inputs["npho"]))
    ]


def triton_ways(stack: ExitStack, model: Path, inputs: Tensors, rounds: int) -> dict[str, Way]:
    """Triton through its engine, and through the gateway."""
    from xec.engines.triton import TritonEngine  # noqa: PLC0415
    from xec_server.triton.launcher import TritonSettings, running  # noqa: PLC0415

    triton = stack.enter_context(running(TritonSettings(model)))
    engine = TritonEngine(triton.address, model)
    stack.callback(engine.close)
    gateway, channel = stack.enter_context(
        server(model, "--engine", "triton", "--triton", triton.address)
    )
    events = rounds * len(inputs["npho"])
    seats = [triton.process_id]
    return {
        f"Triton, batches of {BATCH}": Way(
            callers(engine.infer, [inputs] * rounds, 2), events, seats
        ),
        f"Triton, single events, {CALLERS} callers": Way(
            callers(engine.infer, rows_of(inputs) * rounds, CALLERS), events, seats
        ),
        **ways_through("gateway", channel, batch_of(inputs), [gateway, *seats], rounds),
    }


# --- report --------------------------------------------------------------------------------------


def measured(ways: dict[str, Way], rounds: int) -> list[dict[str, Any]]:
    """The figures of all ways, measured in turn after one round that does not count."""
    for number in range(rounds + 1):
        for way in ways.values():
            way.measure()
            if number == 0:
                way.rates.clear()
                way.cpu_ms.clear()
    alone = next(iter(ways.values()))
    return [
        {
            "way": name,
            "events_per_second": max(way.rates),
            "ratio": statistics.median(
                mine / theirs for mine, theirs in zip(way.rates, alone.rates, strict=True)
            ),
            "cpu_ms_per_event": statistics.median(way.cpu_ms),
            "cpu_ratio": statistics.median(alone.cpu_ms) / statistics.median(way.cpu_ms),
            "aim": AIMS.get(name),
        }
        for name, way in ways.items()
    ]


def table_of(rows: list[dict[str, Any]], where: dict[str, str]) -> Table:
    """The rows for people."""
    caption = ", ".join(f"{key} {value}" for key, value in where.items())
    table = Table(title="Server and Triton beside the engine alone", caption=caption)
    table.add_column("way")
    for name in ("events/s", "ratio", "aim", "CPU ms/event", "CPU ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        aim = "" if row["aim"] is None else f"{row['aim']:.2f}"
        table.add_row(
            row["way"],
            f"{row['events_per_second']:.0f}",
            f"{row['ratio']:.2f}",
            aim,
            f"{row['cpu_ms_per_event']:.2f}",
            f"{row['cpu_ratio']:.2f}",
        )
    return table


def arguments_of_command() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("model_repository"))
    parser.add_argument("--triton", action="store_true", help="start Triton and measure it, too")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=2, help="of 64 events, in each round")
    parser.add_argument("--starts", type=int, default=3, help="of the server, for the first call")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write JSON."""
    arguments = arguments_of_command()
    inputs, repeats = random_events(BATCH), arguments.batches
    batch = batch_of(inputs)
    console = Console()
    with ExitStack() as stack:
        engine = OnnxEngine(arguments.model, OnnxSettings())
        process, channel = stack.enter_context(server(arguments.model))
        alone = callers(engine.infer, [inputs] * repeats, 1)
        ways = {
            "engine alone": Way(alone, repeats * BATCH),
            **ways_through("server", channel, batch, [process], repeats),
        }
        if arguments.triton:
            ways |= triton_ways(stack, arguments.model, inputs, repeats)
        rows = measured(ways, arguments.rounds)
        memory = memory_mb(process)
        where = {**machine(), "model": engine.model.sha256[:12]}
    start = first_to_median(arguments.model, single_requests(batch), arguments.starts)
    console.print(table_of(rows, where))
    console.print(
        f"Server memory {memory['resident']:.0f} MB, at most {memory['highest']:.0f} MB (aim 600). "
        f"First call after ready to the median one: {start['wall_ratio']:.2f}, "
        f"in processor time {start['cpu_ratio']:.2f} (aim 2)."
    )
    if arguments.json is not None:
        report = {"machine": where, "ways": rows, "memory_mb": memory, "first_call": start}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
