"""What telemetry costs a server: processor time per call with it and without, in turns.

Run: python benchmarks/telemetry.py [--model model_repository] [--json FILE]

Servers that differ in nothing else run side by side; each round measures every one of them once, in
an order that turns. A ratio is the median over the rounds of a way's processor time per event to
that of the plain server in the same round: whatever else the machine does disturbs it less than
the rate, and "plain, once more" tells how far apart equals are. Metrics are scraped every 5 s
meanwhile, three times as often as is usual; spans go to a receiver of OTLP in this process. The
last line is what the sums over sensors take, as a share of the plain server's time per event.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from engine import random_events
from gateway import METHOD, Way, batch_of, callers, server, single_requests
from machine import machine
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec_server.telemetry.outputs import OutputMetrics

EVENTS = 64
CALLERS = 4
AIM = 1.03
SCRAPE_SECONDS = 5.0
FIRST_PORT = 29464


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts spans."""

    def __init__(self) -> None:
        self.spans = 0

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  (the protocol's name)
        """Take some."""
        del context
        self.spans += sum(len(s.spans) for r in request.resource_spans for s in r.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    """A receiver and its URL."""
    receiver, service = Receiver(), grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, service)
    port = service.add_insecure_port("127.0.0.1:0")
    service.start()
    yield receiver, f"http://127.0.0.1:{port}"
    service.stop(None).wait()


@contextmanager
def sampling(one_in_hundred: bool) -> Iterator[None]:
    """What is started within traces so many calls, or all."""
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    with patch.dict(os.environ, sampler if one_in_hundred else {}):
        yield


@contextmanager
def scraping(ports: Sequence[int]) -> Iterator[None]:
    """Read the metrics at some ports now and then."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_SECONDS):
            for port in ports:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()

    thread = threading.Thread(target=scrape)
    thread.start()
    yield
    ended.set()
    thread.join()


def measured(ways: dict[str, Way], rounds: int) -> list[dict[str, Any]]:
    """The figures of all ways, measured in turn after one round that does not count."""
    names = list(ways)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            ways[name].measure()
        if number == 0:
            for way in ways.values():
                way.rates.clear()
                way.cpu_ms.clear()
    plain = next(iter(ways.values()))
    return [
        {
            "way": name,
            "cpu_ms_per_event": statistics.median(way.cpu_ms),
            "cpu_ratio": statistics.median(
                mine / theirs for mine, theirs in zip(way.cpu_ms, plain.cpu_ms, strict=True)
            ),
            "rate_ratio": statistics.median(
                mine / theirs for mine, theirs in zip(way.rates, plain.rates, strict=True)
            ),
        }
        for name, way in ways.items()
    ]


def observe_ms(model: Path, events: int, repeats: int = 200) -> float:
    """Processor time per event of summing up batches of so many, in ms."""
    engine = OnnxEngine(model, OnnxSettings(sessions=1))
    inputs = random_events(events)
    outputs = engine.infer(inputs)
    metrics = OutputMetrics(CollectorRegistry())
    began = time.process_time()
    for _ in range(repeats):
        metrics.observe(engine, inputs, outputs, engine.model)
    taken = time.process_time() - began
    engine.close()
    return 1e3 * taken / (repeats * events)


def table_of(rows: list[dict[str, Any]], where: dict[str, str]) -> Table:
    """The rows for people."""
    caption = ", ".join(f"{key} {value}" for key, value in where.items())
    table = Table(title=f"A call with telemetry (aim: at most {AIM:.2f})", caption=caption)
    table.add_column("server")
    for name in ("CPU ms/event", "CPU ratio", "rate ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["way"],
            f"{row['cpu_ms_per_event']:.2f}",
            f"{row['cpu_ratio']:.3f}",
            f"{row['rate_ratio']:.3f}",
        )
    return table


def arguments_of_command() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("model_repository"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write JSON."""
    arguments = arguments_of_command()
    requests = single_requests(batch_of(random_events(EVENTS)))
    with ExitStack() as stack:
        receiver, url = stack.enter_context(receiving())
        ports = [FIRST_PORT + number for number in range(3)]
        options = {
            "plain": (),
            "plain, once more": (),  # how far apart equals are
            "metrics": ("--metrics", str(ports[0])),
            "metrics and 1 % of traces": ("--metrics", str(ports[1]), "--trace", url),
            "metrics and all traces": ("--metrics", str(ports[2]), "--trace", url),
        }
        ways = {}
        for name, added in options.items():
            with sampling("1 %" in name):
                process, channel = stack.enter_context(server(arguments.model, *added))
            call = channel.unary_unary(f"{METHOD}Reconstruct")
            ways[name] = Way(callers(call, requests, CALLERS), EVENTS, [process])
        stack.enter_context(scraping(ports))
        rows = measured(ways, arguments.rounds)
        where = machine()
        spans = receiver.spans
    plain = rows[0]["cpu_ms_per_event"]
    shares = {events: observe_ms(arguments.model, events) / plain for events in (1, 4)}
    console = Console()
    console.print(table_of(rows, where))
    told = ", ".join(f"{100 * share:.2f} % in batches of {n}" for n, share in shares.items())
    console.print(f"Sums over sensors and checks of outputs: {told}. {spans} spans arrived.")
    if arguments.json is not None:
        content = {"rows": rows, "where": where, "observe_share": shares, "spans": spans}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
