"""How often the flags of an answer are raised, where they should be and where they should not.

Run: python benchmarks/flags.py [--repository model_repository] [--events 4000] [--json FILE]
    [--figure FILE.png]

The engine is the one that users get; its model must have been calibrated (xec train calibrate)
before its export. False alarms are measured on events like the training's and on signal events,
none of which the calibration has seen; detection on pile-up by the second gamma's energy and time
offset, and on dead patterns that the training does not know. The second part lays holes of dead
sensors in front of the light, and shows where the network's filling breaks down and what is
served there instead.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from machine import machine
from xec.answer import answer_one, with_baseline
from xec.contract import INPUTS
from xec.detector.channels import INNER_GRID, N_CHANNELS, N_MPPC
from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import parametric
from xec.engines.base import tensors_of
from xec.engines.onnx import OnnxEngine
from xec.event import EventBatch
from xec.lineage import Provenance
from xec.reliability.dead_light import hidden_share
from xec.reliability.domain import FEATURES, features_of
from xec.reliability.record import Reliability
from xec.simulation.generator import Generator, PileUpConfig, SimulatedBatch, SimulationConfig
from xec.simulation.vertex import SourceConfig
from xec_training.breakdown import Broken, measure, share_rows
from xec_training.data.simulated import SimulatedSource, signal_simulation

BATCH: Final = 64
SECOND_ENERGIES: Final = ((5.0, 10.0), (10.0, 20.0), (20.0, 52.8))  # MeV
WINDOWS: Final = (0.0, 2.0, 10.0, 50.0)  # ns, the offset is flat between minus and plus this
REPETITIONS: Final = 200

Pattern = Callable[[SimulatedBatch, np.random.Generator], NDArray[np.bool_]]


class EngineModule(nn.Module):
    """An engine where a network is expected."""

    def __init__(self, engine: OnnxEngine) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The contract's outputs."""
        arrays = {
            tensor.name: value.numpy().astype(tensor.dtype)
            for tensor, value in zip(INPUTS, inputs, strict=True)
        }
        outputs = self.engine.infer(arrays)
        return {name: torch.from_numpy(value) for name, value in outputs.items()}


def no_more(batch: SimulatedBatch, rng: np.random.Generator) -> NDArray[np.bool_]:
    """No dead sensors beside those of the simulation."""
    del rng
    return np.zeros((len(batch), N_CHANNELS), dtype=np.bool_)


def scattered(share: float) -> Pattern:
    """A share of all sensors, one by one."""
    return lambda batch, rng: rng.random((len(batch), N_CHANNELS)) < share


def half_face(batch: SimulatedBatch, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A half of the inner face, one of four."""
    dead = np.zeros((len(batch), N_CHANNELS), dtype=np.bool_)
    rows, columns = (size // 2 for size in INNER_GRID.shape)
    halves = (
        INNER_GRID[:rows],
        INNER_GRID[rows:],
        INNER_GRID[:, :columns],
        INNER_GRID[:, columns:],
    )
    for row, choice in enumerate(rng.integers(len(halves), size=len(batch))):
        dead[row, halves[choice].ravel()] = True
    return dead


def in_front(batch: SimulatedBatch, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The 5 x 5 inner sensors in front of the true conversion point."""
    del rng
    dead = np.zeros((len(batch), N_CHANNELS), dtype=np.bool_)
    places = uvw_from_xyz(parametric().position[:N_MPPC])[:, :2]
    for row, uvw in enumerate(batch.uvw.numpy()):
        r, c = divmod(int(((places - uvw[:2]) ** 2).sum(1).argmin()), INNER_GRID.shape[1])
        dead[row, INNER_GRID[max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3].ravel()] = True
    return dead


def pile_up(energy: tuple[float, float], window: float) -> SimulationConfig:
    """Signal with a second gamma in every event."""
    return replace(SimulationConfig(), pile_up=PileUpConfig(1.0, energy, window))


def scenarios() -> dict[str, tuple[SimulationConfig, Pattern, float]]:
    """Physics, dead sensors to add, and the share of --events to spend."""
    signal = SimulationConfig()
    wide = replace(signal, source=SourceConfig(energy=(12.0, 62.0)))
    found: dict[str, tuple[SimulationConfig, Pattern, float]] = {
        "signal": (signal, no_more, 1.0),
        "like the training": (wide, no_more, 1.0),
        "5 % dead": (signal, scattered(0.05), 0.1),
        "20 % dead": (signal, scattered(0.2), 0.1),
        "half a face dead": (signal, half_face, 0.1),
        "5 x 5 dead in front": (signal, in_front, 0.1),
        "pile-up, 5-52.8 MeV, 50 ns": (pile_up((5.0, 52.8), 50.0), no_more, 0.25),
    }
    for low, high in SECOND_ENERGIES:
        for window in WINDOWS:
            name = f"pile-up, {low:g}-{high:g} MeV, {window:g} ns"
            found[name] = (pile_up((low, high), window), no_more, 0.1)
    return found


def events_of(batch: SimulatedBatch, more: NDArray[np.bool_]) -> EventBatch:
    """What a user would send."""
    valid = batch.npho_valid.numpy() & ~batch.dead.numpy() & ~more
    timed = batch.time_valid.numpy() & valid
    B = len(batch)
    return EventBatch(
        run=np.zeros(B, dtype=np.int64),
        event=np.arange(B),
        npho=np.where(valid, batch.npho.numpy(), np.float32(0)),
        time=np.where(timed, batch.time.numpy(), np.float32(0)),
        npho_valid=valid,
        time_valid=timed,
    )


def flagged(
    engine: OnnxEngine, config: SimulationConfig, pattern: Pattern, events: int, seed: int
) -> dict[str, Any]:
    """Rates of the flags, and which features raise the one of the domain."""
    geometry, known = parametric(), engine.model.reliability
    assert known.domain is not None
    generator = Generator(config, geometry, "cpu", seed)
    rng = np.random.default_rng(seed)
    outside, dark = 0, 0
    reasons = dict.fromkeys(FEATURES, 0)
    scores: list[float] = []
    for start in range(0, events, BATCH):
        batch = generator.sample(min(BATCH, events - start))
        sent = events_of(batch, pattern(batch, rng))
        outputs = engine.infer(tensors_of(sent))
        for row, event in enumerate(sent):
            features = features_of(event, outputs, row, geometry)
            score = known.domain.score(features)
            scores.append(score.value)
            if known.domain.is_outside(features):
                outside += 1
                reasons[score.feature] += 1
            if known.dead_light is not None:
                share = hidden_share(event.npho_valid, outputs["npho_mean"][row])
                dark += known.dead_light.is_too_much(share)
    rate = outside / events
    return {
        "events": events,
        "outside_domain": rate,
        "error": float(np.sqrt(max(rate * (1 - rate), 1 / events) / events)),
        "too_much_dead_light": dark / events if known.dead_light is not None else None,
        "median_score": float(np.median(scores)),
        "reasons": {name: count / events for name, count in reasons.items() if count},
    }


def in_holes(engine: OnnxEngine, events: int) -> tuple[Broken, dict[str, Any]]:
    """The network beside the solid-angle method in holes, and what is served."""
    source = SimulatedSource(
        signal_simulation(), parametric(), torch.device("cpu"), 77, BATCH, events
    )
    batches = track(source.batches(), "holes", total=source.batches_per_epoch)
    found = measure(EngineModule(engine), batches, parametric(), 78)
    dead_light = engine.model.reliability.dead_light
    report: dict[str, Any] = {
        "events": events,
        "bins": [
            {
                "low": row.low,
                "high": row.high,
                "events": row.events,
                "network_over_baseline": row.ratio,
                "network_pull": row.pull,
                "broken": row.broken,
            }
            for row in share_rows(found)
        ],
    }
    if dead_light is not None:
        beyond = found.share > dead_light.threshold
        hit = beyond[found.event]
        pull = found.error[hit] / dead_light.sigma_of(found.light[hit])
        report |= {
            "threshold": dead_light.threshold,
            "flagged": float(beyond.mean()),
            "median_error_network": float(np.median(found.network[beyond])),
            "median_error_baseline": float(np.median(found.baseline[beyond])),
            "median_pull_network": float(np.median(found.pull[beyond])),
            "baseline_pull_width": float(np.quantile(np.abs(pull), 0.6827)),
        }
    return found, report


def microseconds(engine: OnnxEngine) -> dict[str, float]:
    """Time per event of the flags, on one core."""
    generator = Generator(SimulationConfig(), parametric(), "cpu", 5)
    batch = generator.sample(8)
    known, model = engine.model.reliability, engine.model
    bare = replace(model, reliability=Reliability())
    where = Provenance(model.name, model.version, model.sha256, model.geometry_hash)
    found = {}
    sent = events_of(batch, no_more(batch, np.random.default_rng(0)))
    outputs = engine.infer(tensors_of(sent))
    events = list(sent)
    subjects: dict[str, Callable[[int], Any]] = {
        "answer without limits": lambda k: answer_one(events[k], outputs, k, where, bare),
        "answer with limits": lambda k: answer_one(events[k], outputs, k, where, model),
        "features of the domain": lambda k: features_of(events[k], outputs, k, parametric()),
        "hidden light": lambda k: hidden_share(events[k].npho_valid, outputs["npho_mean"][k]),
    }
    if known.dead_light is not None:
        light = known.dead_light
        filled = [answer_one(e, outputs, k, where, bare).recovered for k, e in enumerate(events)]
        subjects["fallback, where it is taken"] = lambda k: with_baseline(
            events[k], filled[k], light, parametric()
        )
    for name, work in subjects.items():
        times = []
        for repetition in range(REPETITIONS):
            began = time.perf_counter()
            work(repetition % len(events))
            times.append(time.perf_counter() - began)
        found[name] = 1e6 * float(np.median(times))
    return found


def rates_table(rows: Mapping[str, Mapping[str, Any]], threshold: float) -> Table:
    """The rates for people."""
    table = Table(title=f"Flags; outside the domain is a score above {threshold:.3f}")
    for name in ("events", "number", "outside domain", "too much dead light", "mostly by"):
        table.add_column(name, justify="left" if name in ("events", "mostly by") else "right")
    for name, row in rows.items():
        dark = row["too_much_dead_light"]
        reasons = sorted(row["reasons"], key=row["reasons"].get, reverse=True)
        table.add_row(
            name,
            str(row["events"]),
            f"{row['outside_domain']:.1%} ± {row['error']:.1%}",
            "-" if dark is None else f"{dark:.1%}",
            ", ".join(islice(reasons, 2)),
        )
    return table


def holes_table(report: Mapping[str, Any]) -> Table:
    """The breakdown for people."""
    title = "Filling of holes: the network beside the solid-angle method, medians"
    table = Table(title=title)
    for name in ("hidden light", "events", "error over baseline's", "pull", "broken"):
        table.add_column(name, justify="right")
    for row in report["bins"]:
        table.add_row(
            f"{row['low']:.1%}-{row['high']:.1%}",
            str(row["events"]),
            f"{row['network_over_baseline']:.2f}",
            f"{row['network_pull']:.2f}",
            f"{row['broken']:.0%}",
        )
    return table


def draw(found: Broken, report: Mapping[str, Any], path: Path) -> None:
    """Error ratio and pull of each event against the share of hidden light."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    share = np.maximum(found.share, 1e-4)
    for axes, values, line, label in (
        (upper, found.ratio, 1.0, "error / baseline's error"),
        (lower, found.pull, 3.0, "RMS pull of the network"),
    ):
        axes.loglog(share, values, ".", markersize=3, alpha=0.5)
        axes.axhline(line, color="black", linewidth=0.8)
        axes.set_ylabel(label)
        if "threshold" in report:
            axes.axvline(report["threshold"], color="C1", linewidth=1.2)
    lower.set_xlabel("share of the predicted light on blind sensors")
    upper.set_title("Filling of holes (synthetic); one point per event, line: threshold")
    figure.savefig(path, dpi=120)


def arguments_of_command() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=4001)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print tables, write JSON and picture."""
    arguments = arguments_of_command()
    torch.set_num_threads(1)
    engine = OnnxEngine(arguments.repository, geometry_hash=parametric().hash)
    domain = engine.model.reliability.domain
    if domain is None:
        sys.exit(
            f"The model in {arguments.repository} knows no limits: run xec train calibrate on its "
            "checkpoint and export it again."
        )
    rows = {
        name: flagged(engine, config, pattern, max(BATCH, int(share * arguments.events)), seed)
        for seed, (name, (config, pattern, share)) in enumerate(
            track(scenarios().items(), "events", total=len(scenarios())), arguments.seed
        )
    }
    found, report = in_holes(engine, arguments.events // 4)
    cost = microseconds(engine)
    console = Console()
    console.print(rates_table(rows, domain.threshold), holes_table(report))
    console.print({name: f"{value:.0f} us" for name, value in cost.items()})
    if arguments.figure is not None:
        draw(found, report, arguments.figure)
    if arguments.json is not None:
        where = {**machine(), "model": engine.model.sha256, "seed": str(arguments.seed)}
        content = {"machine": where, "rates": rows, "holes": report, "microseconds": cost}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
