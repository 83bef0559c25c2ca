"""Latency against offered rate, measured from the intended send times, and the knee.

Run from the root of the repository: python loadtest/openloop.py --out load.png --json load.json

See docs/loadtest.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from xec.errors import UsageError, XecError
from xec.event import Event
from xec.io.output import writing
from xec.machine import machine
from xec_loadtest.arrivals import Arrivals
from xec_loadtest.events import SAMPLE, load_events
from xec_loadtest.picture import draw
from xec_loadtest.report import as_json, drift_warning, knee_sentence, table_of
from xec_loadtest.servers import Engine, serving
from xec_loadtest.sweep import Curve, Plan, sweep
from xec_loadtest.watching import bar

Option = typer.Option
TITLES: Final = {Engine.ONNX: "embedded engine", Engine.TRITON: "gateway and Triton"}
_PLAN: Final = Plan()
_FRACTIONS: Final = ",".join(f"{fraction:g}" for fraction in _PLAN.fractions)


def fractions_of(text: str) -> tuple[float, ...]:
    """Numbers that are separated by commas.

    Raises:
        UsageError: one is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no list of numbers: write --fractions 0.5,0.9.") from None


def measured(name: str, server: str, events: Sequence[Event], plan: Plan, to: Console) -> Curve:
    """One server, with a bar."""
    with bar(to, name, plan.total_seconds) as watch:
        return asyncio.run(sweep(name, server, events, plan, watch))


def write_json(path: Path, plan: Plan, curves: Sequence[Curve], where: dict[str, str]) -> None:
    """All figures, with the plan and the machine."""
    content: dict[str, Any] = {
        "machine": where,
        "arrivals": plan.arrivals.value,
        "seconds": plan.seconds,
        "curves": [as_json(curve) for curve in curves],
    }
    with writing(path):
        path.write_text(json.dumps(content, indent=2) + "\n")


def openloop(
    *,
    engine: Annotated[
        list[Engine] | None, Option(help="Server to start; repeat for several. Both by default.")
    ] = None,
    server: Annotated[
        str | None, Option(help="HOST:PORT of a server that runs; none is started then.")
    ] = None,
    model: Annotated[Path, Option(help="Model repository.")] = Path("model_repository"),
    events: Annotated[Path, Option(help="ROOT file with events to send.")] = SAMPLE,
    fractions: Annotated[
        str, Option(help="Offered rates, as fractions of the capacity in a closed loop.")
    ] = _FRACTIONS,
    seconds: Annotated[float, Option(help="At each rate.")] = _PLAN.seconds,
    warm_up: Annotated[
        float, Option(help="Seconds with one caller, with many, and with many at the end.")
    ] = _PLAN.warm_up,
    callers: Annotated[int, Option(help="In the closed loop.")] = _PLAN.callers,
    arrivals: Annotated[Arrivals, Option(help="How events come.")] = _PLAN.arrivals,
    limit: Annotated[
        float, Option(help="For a good answer, in medians of the unloaded server.")
    ] = _PLAN.limit,
    timeout: Annotated[float, Option(help="Seconds for one call.")] = _PLAN.timeout,
    seed: Annotated[int, Option(help="Of the arrivals.")] = _PLAN.seed,
    out: Annotated[Path | None, Option(help="Picture to write, PNG.")] = None,
    json_file: Annotated[Path | None, Option("--json", help="Figures to write.")] = None,
) -> None:
    """Measure latency against offered rate, open loop, and find the knee.

    Example: python loadtest/openloop.py --engine onnx --out load.png --json load.json
    """
    plan = Plan(
        fractions=fractions_of(fractions),
        seconds=seconds,
        warm_up=warm_up,
        callers=callers,
        arrivals=arrivals,
        limit=limit,
        timeout=timeout,
        seed=seed,
    )
    console, where, sample = Console(), machine(), load_events(events)
    curves = []
    if server is not None:
        curves.append(measured(server, server, sample, plan, console))
    else:
        for kind in dict.fromkeys(engine or Engine):
            with serving(kind, model, console.print) as address:
                curves.append(measured(TITLES[kind], address, sample, plan, console))
    for curve in curves:
        console.print(table_of(curve))
        for sentence in (knee_sentence(curve), drift_warning(curve)):
            if sentence is not None:
                console.print(sentence, soft_wrap=True)
    if out is not None:
        draw(curves, out, ", ".join(f"{key} {value}" for key, value in where.items()))
    if json_file is not None:
        write_json(json_file, plan, curves, where)


if __name__ == "__main__":
    # gRPC's own lines about a server that is away; ours says it in a sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        typer.run(openloop)
    except XecError as error:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
            f"openloop: {error}"
        )
        sys.exit(error.exit_code)
