"""What a server with the real model still does when it is offered more than it can compute.

Run: python benchmarks/overload.py [--model model_repository] [--seconds 8] [--json FILE]
     [--picture FILE]

Single events with a deadline leave at planned times (an open loop), whatever becomes of the others;
latencies count from these. Capacity is what callers that wait for each answer get, measured before
and after each rate. The server computes in one session, so that client and refusals have a core
too; the last rows are of a server that does not look ahead, and accepts what will be late.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from engine import random_events
from gateway import METHOD, batch_of, cpu_seconds, server, single_requests
from machine import machine
from xec.wire.limits import MAX_RESPONSE_BYTES

CLIENTS = 4
CALLERS = 16
DEADLINE = 1.0  # seconds
TIMES = (0.5, 1.0, 2.0, 4.0)
NO_FORESIGHT = """
from xec_server.queueing import pace, room
room.Room._refuse_hopeless = lambda *arguments: None
pace.Pace.one_call = lambda *arguments: float("-inf")
"""
WAYS = {"looks ahead": "", "does not": NO_FORESIGHT}


@dataclass
class Ends:
    """How calls ended: seconds of those that were answered, and the codes of the others."""

    seconds: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    last: float = 0.0


class Clients:
    """Connections to one server, and requests for them."""

    def __init__(self, address: str, requests: list[bytes]) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        ]
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(CLIENTS)]
        ways = [channel.unary_unary(f"{METHOD}Reconstruct") for channel in self._channels]
        self._turns = cycle(zip(cycle(ways), cycle(requests)))

    async def close(self) -> None:
        """Close all connections."""
        for channel in self._channels:
            await channel.close()

    async def _ask(self, ends: Ends, planned: float, timeout: float | None) -> None:
        ((way, request),) = islice(self._turns, 1)
        try:
            await way(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            ends.others[error.code().name] += 1
        else:
            ends.last = time.monotonic()
            ends.seconds.append(ends.last - planned)

    async def capacity(self, seconds: float) -> float:
        """Events per second of callers that wait for each answer."""
        ends, start = Ends(), time.monotonic()

        async def caller() -> None:
            while (now := time.monotonic()) < start + seconds:
                await self._ask(ends, now, None)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return len(ends.seconds) / (ends.last - start)

    async def offer(self, rate: float, seconds: float) -> tuple[Ends, float]:
        """So many events per second for a while; how they ended, and how long that took."""
        ends, tasks, start = Ends(), [], time.monotonic()
        for number in range(int(rate * seconds)):
            planned = start + number / rate
            await asyncio.sleep(max(0.0, planned - time.monotonic()))
            tasks.append(asyncio.create_task(self._ask(ends, planned, DEADLINE)))
        await asyncio.gather(*tasks)
        return ends, max(ends.last - start, seconds)


def free_port() -> int:
    """Of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def row_of(way: str, times: float, capacity: float, ends: Ends, took: float) -> dict[str, Any]:
    """The figures of one rate."""
    p50, p99 = np.percentile(ends.seconds, [50, 99]) if ends.seconds else (np.nan, np.nan)
    offered = len(ends.seconds) + ends.others.total()
    return {
        "server": way,
        "times_capacity": times,
        "capacity": capacity,
        "offered": offered,
        "answered_in_time": len(ends.seconds),
        "goodput": len(ends.seconds) / took / capacity,
        "refused": ends.others["RESOURCE_EXHAUSTED"] / offered,
        "late": ends.others["DEADLINE_EXCEEDED"] / offered,
        "p50_ms": 1e3 * p50,
        "p99_ms": 1e3 * p99,
    }


async def measured(
    way: str, address: str, process: int, requests: list[bytes], seconds: float
) -> list[dict[str, Any]]:
    """All rates with one server."""
    clients, rows = Clients(address, requests), []
    try:
        await clients.capacity(2)  # does not count
        before = await clients.capacity(seconds / 2)
        for times in TIMES:
            cpu = cpu_seconds(process)
            ends, took = await clients.offer(times * before, seconds)
            cpu = cpu_seconds(process) - cpu
            after = await clients.capacity(seconds / 2)
            rows.append(row_of(way, times, (before + after) / 2, ends, took))
            rows[-1]["server_cores"] = cpu / took
            before = after
    finally:
        await clients.close()
    return rows


def table_of(rows: list[dict[str, Any]], where: dict[str, str]) -> Table:
    """The rows for people."""
    caption = ", ".join(f"{key} {value}" for key, value in where.items())
    table = Table(title=f"Overload, deadline {DEADLINE:g} s", caption=caption)
    for name in ("server", "offered / capacity", "capacity/s", "goodput / capacity", "refused"):
        table.add_column(name, justify="right")
    for name in ("late", "p50 ms", "p99 ms", "server's cores"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["server"],
            f"{row['times_capacity']:g}",
            f"{row['capacity']:.0f}",
            f"{row['goodput']:.2f}",
            f"{row['refused']:.0%}",
            f"{row['late']:.0%}",
            f"{row['p50_ms']:.0f}",
            f"{row['p99_ms']:.0f}",
            f"{row['server_cores']:.2f}",
        )
    return table


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """What is answered in time over what is offered, with and without looking ahead."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
    axes.plot([0, 1, max(TIMES)], [0, 1, 1], color="0.7", linestyle="--", label="ideal")
    for way, colour in zip(WAYS, ("tab:blue", "tab:red"), strict=True):
        mine = [row for row in rows if row["server"] == way]
        x = [row["times_capacity"] for row in mine]
        axes.plot(x, [row["goodput"] for row in mine], "o-", color=colour, label=way)
    axes.set(
        xlabel="events offered / capacity",
        ylabel=f"answered within {DEADLINE:g} s / capacity",
        ylim=(0, 1.2),
        xlim=(0, None),
    )
    axes.legend(title="server", frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, write JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("model_repository"))
    parser.add_argument("--seconds", type=float, default=8.0, help="at each rate")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    requests = single_requests(batch_of(random_events(64)))
    rows: list[dict[str, Any]] = []
    for way, first in WAYS.items():
        address = f"127.0.0.1:{free_port()}"
        options = ("--sessions", "1", "--listen", address)
        with server(arguments.model, *options, first=first) as (process, _):
            rows += asyncio.run(measured(way, address, process, requests, arguments.seconds))
    where = machine()
    Console(width=120).print(table_of(rows, where))
    if arguments.json is not None:
        report = {"machine": where, "deadline_s": DEADLINE, "rates": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.picture is not None:
        draw(rows, arguments.picture)


if __name__ == "__main__":
    main()
