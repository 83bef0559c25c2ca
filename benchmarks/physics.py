"""How well dead sensors are filled and the gamma is measured, beside the conventional methods.

Run: python benchmarks/physics.py [--events 20000] [--only signal front ...] [--json FILE]

The engine is the one that users get. Errors on dead sensors are those against the expected light,
in photons. The squared error is the deed of a few shallow events, so that the mean size of the
error and the RMS error of the root count 2 sqrt(n / 10 + 1), in which all light has about the same
noise, stand beside it. `noise` is the reading's own. Errors of all figures are bootstrap errors
over events. The local fit and the conventional gamma, which takes its position, are slow and run
on the first events only (--slow). How far all this is from what the photons allow:
benchmarks/optimum.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from machine import machine
from scenarios import BATCH, COMPONENTS, SCENARIOS, UNITS, Found, Judged, judged
from xec.contract import INPUTS
from xec.detector.geometry import Geometry, parametric
from xec.engines.onnx import OnnxEngine
from xec.metrics.scores import coverage, gaussian_crps, pull_width
from xec.metrics.spread import rms, sigma_eff
from xec.recovery.conventional import conventional_gamma
from xec.recovery.local_fit import local_fit, local_fit_recovery
from xec.recovery.neighbour_average import neighbour_average
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex

Array = NDArray[np.float64]
NETWORK: Final = "this network"
REPLICAS: Final = 100
BRIGHT: Final = 100.0  # photons; relative errors are quoted above this
DEPTHS: Final = (0.0, 1.0, 2.0, 4.0, 7.0, 12.0, 42.0)  # cm
FILLING: Final = ("mae", "rmse", "root_rmse", "bias", "within68", "within95", "relative")


class Clock:
    """Seconds and events of each method."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.events: dict[str, int] = {}

    def __call__(self, name: str, events: int, work: Callable[[], Any]) -> Any:
        """The answer of `work`, whose time counts for `name`."""
        began = time.perf_counter()
        answer = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self.events[name] = self.events.get(name, 0) + events
        return answer

    def rates(self) -> dict[str, float]:
        """Events per second."""
        return {name: self.events[name] / spent for name, spent in self.seconds.items()}


def conventional(
    some: Judged, geometry: Geometry, clock: Clock, slow: bool
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Fills (B, 4760) and gammas (B, 7) of the conventional methods."""
    npho, tim, npho_valid, time_valid = (np.asarray(some.inputs[t.name]) for t in INPUTS)
    B, valid, timed = len(npho), npho_valid > 0, time_valid > 0
    fills = {
        "neighbour average": clock(
            "neighbour average", B, lambda: neighbour_average(npho, valid, geometry)
        ),
        "solid angle": clock(
            "solid angle",
            B,
            lambda: solid_angle_ratio(
                npho, valid, conventional_vertex(npho, valid, geometry), geometry
            ),
        ),
    }
    if not slow:
        return fills, {}
    fit = clock("local fit", B, lambda: local_fit(npho, valid, geometry))
    fills["local fit"] = local_fit_recovery(npho, valid, geometry, fit)
    found = clock(
        "conventional gamma",
        B,
        lambda: conventional_gamma(npho, tim, valid, timed, geometry),
    )
    parts = (found.energy, found.gamma_time, found.uvw, found.angle)
    return fills, {"conventional": np.concatenate([p.reshape(B, -1) for p in parts], axis=1)}


def gather(
    name: str, engine: OnnxEngine, arguments: argparse.Namespace, clock: Clock, console: Console
) -> tuple[Found, Found]:
    """All events by the network and the fast methods; the first ones by all."""
    scenario, geometry = SCENARIOS[name], parametric()
    events = max(BATCH, int(arguments.events * scenario.share))
    everything, first = Found(), Found()
    batches = judged(scenario, events, geometry, arguments.seed)
    for some in track(batches, description=name, total=events / BATCH, console=console):
        slow = first.events < min(arguments.slow, events)
        outputs = clock(NETWORK, len(some.batch), lambda some=some: engine.infer(some.inputs))
        fills, gammas = conventional(some, geometry, clock, slow)
        if slow:
            first.add(some, outputs, fills, gammas)
        fills.pop("local fit", None)
        everything.add(some, outputs, fills, {})
    return everything, first


def mean_with_error(
    values: Array, event: NDArray[np.int64], events: int, finish: Callable[[Array], Array]
) -> list[float]:
    """`finish` of the mean of the values, and its bootstrap error over events."""
    total = np.bincount(event, weights=values, minlength=events)
    count = np.bincount(event, minlength=events).astype(np.float64)
    draws = np.random.default_rng(0).multinomial(events, np.full(events, 1 / events), REPLICAS)
    means = finish((draws @ total) / (draws @ count))
    return [float(finish(total.sum() / count.sum())), float(np.std(means, ddof=1))]


def filling(found: Found) -> dict[str, Any]:
    """Errors of each method on the sensors that were asked for."""
    light, reading = np.concatenate(found.light), np.concatenate(found.reading)
    event = np.concatenate(found.event)
    rows: dict[str, Any] = {"events": found.events, "sensors": len(light), "methods": {}}
    if not len(light):
        return rows
    rows["noise_rms"] = rms(reading - light)
    for name, parts in found.fills.items():
        fill = np.concatenate(parts)
        known = np.isfinite(fill)
        rows["methods"][name] = _filling(fill[known], light[known], event[known], found.events)
        rows["methods"][name]["missing"] = int((~known).sum())
    pull = (reading - np.concatenate(found.fills[NETWORK])) / np.concatenate(found.sigma)
    rows["pull_width"], rows["pull_rms"] = pull_width(pull)
    rows["coverage68"], rows["coverage95"] = coverage(pull, 0.6827), coverage(pull, 0.95)
    sigma = np.concatenate(found.sigma)
    rows["crps"] = float(gaussian_crps(pull * sigma, sigma).mean())
    return rows


def _root(n: Array) -> Array:
    return np.asarray(2.0 * np.sqrt(np.maximum(n, -9.0) / 10.0 + 1.0))


def _filling(fill: Array, light: Array, event: NDArray[np.int64], events: int) -> dict[str, Any]:
    error, root = fill - light, _root(fill) - _root(light)
    size, bright = np.abs(error), light >= BRIGHT
    return {
        "mae": mean_with_error(size, event, events, np.asarray),
        "rmse": mean_with_error(error * error, event, events, np.sqrt),
        "root_rmse": mean_with_error(root * root, event, events, np.sqrt),
        "bias": float(error.mean()),
        "within68": float(np.quantile(size, 0.68)),
        "within95": float(np.quantile(size, 0.95)),
        "relative": float((size[bright] / light[bright]).mean()),
    }


def gamma(found: Found) -> dict[str, Any]:
    """Resolution of each method, and the network's pulls, overall and by depth."""
    truth = np.concatenate(found.truth)
    rows: dict[str, Any] = {"events": found.events}
    sigma = np.concatenate(found.gamma_sigma)
    for name, parts in found.gamma.items():
        error = np.concatenate(parts) - truth
        for column, component in enumerate(COMPONENTS):
            values = error[:, column]
            values = values[np.isfinite(values)]
            row = rows.setdefault(component, {"unit": UNITS[column]})
            row[name] = {"sigma_eff": _sigma_eff(values), "bias": float(np.median(values))}
    error = np.concatenate(found.gamma[NETWORK]) - truth
    for column, component in enumerate(COMPONENTS):
        pull = error[:, column] / sigma[:, column]
        row = rows[component]
        row["pull_width"], row["pull_rms"] = pull_width(pull)
        row["coverage"] = [coverage(pull, 0.6827), coverage(pull, 0.95)]
        row["crps"] = float(gaussian_crps(error[:, column], sigma[:, column]).mean())
        row["by_depth"] = _by_depth(error[:, column], pull, truth[:, 4])
    return rows


def _sigma_eff(values: Array) -> list[float]:
    random = np.random.default_rng(0)
    draws = [
        sigma_eff(values[random.integers(0, len(values), len(values))]) for _ in range(REPLICAS)
    ]
    return [sigma_eff(values), float(np.std(draws, ddof=1))]


def _by_depth(error: Array, pull: Array, depth: Array) -> list[dict[str, Any]]:
    rows = []
    for low, high in pairwise(DEPTHS):
        inside = (depth >= low) & (depth < high)
        if inside.sum() >= 100:
            rows.append(
                {
                    "depth": [low, high],
                    "events": int(inside.sum()),
                    "sigma_eff": sigma_eff(error[inside]),
                    "coverage": [coverage(pull[inside], 0.6827), coverage(pull[inside], 0.95)],
                    "pull_width": pull_width(pull[inside])[0],
                }
            )
    return rows


def show(name: str, report: Mapping[str, Any], console: Console) -> None:
    """Tables of one scenario."""
    fills = report["filling"]
    table = Table(title=f"{SCENARIOS[name].title}: {fills['sensors']} sensors, photons")
    for column in ("method", *FILLING, "rmse / noise", "missing"):
        table.add_column(column, justify="right")
    every = {**fills["methods"], **{f"{k} (first)": v for k, v in report["first"].items()}}
    for method, row in every.items():
        values = [row[key] for key in FILLING]
        texts = [f"{v[0]:.3g} ± {v[1]:.2g}" if isinstance(v, list) else f"{v:.3g}" for v in values]
        ratio = f"{row['rmse'][0] / fills['noise_rms']:.3g}"
        table.add_row(method, *texts, ratio, str(row["missing"]))
    if fills["sensors"]:
        console.print(table)
    table = Table(title="sigma_eff and, of the network, pull width and coverage")
    for column in (
        "quantity",
        NETWORK,
        NETWORK + " (first)",
        "conventional (first)",
        "pull",
        "68",
        "95",
    ):
        table.add_column(column, justify="right")
    for component in COMPONENTS:
        row, first = report["gamma"][component], report["gamma_first"].get(component, {})
        cells = [row.get(NETWORK), first.get(NETWORK), first.get("conventional")]
        texts = [f"{c['sigma_eff'][0]:.4g} ± {c['sigma_eff'][1]:.2g}" if c else "" for c in cells]
        cover = [f"{100 * c:.1f} %" for c in row["coverage"]]
        table.add_row(f"{component} {row['unit']}", *texts, f"{row['pull_width']:.3f}", *cover)
    console.print(table)


def main() -> None:
    """Measure; print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("model_repository"))
    parser.add_argument("--events", type=int, default=20_000, help="of the main scenarios")
    parser.add_argument("--slow", type=int, default=2000, help="events for the slow methods")
    parser.add_argument("--seed", type=int, default=900_002, help="of the events")
    parser.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engine = OnnxEngine(arguments.model, geometry_hash=parametric().hash)
    where = {**machine(), "model": engine.model.sha256[:12], "synthetic": "true"}
    clock, console = Clock(), Console(stderr=True)
    report: dict[str, Any] = {"machine": where, "seed": arguments.seed, "scenarios": {}}
    for name in arguments.only:
        everything, first = gather(name, engine, arguments, clock, console)
        report["scenarios"][name] = {
            "filling": filling(everything),
            "first": filling(first)["methods"],
            "gamma": gamma(everything),
            "gamma_first": gamma(first),
        }
        show(name, report["scenarios"][name], Console(width=160))
        report["events_per_second"] = clock.rates()
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print({name: round(rate, 1) for name, rate in clock.rates().items()})
    print(", ".join(f"{key} {value}" for key, value in where.items()))


if __name__ == "__main__":
    main()
