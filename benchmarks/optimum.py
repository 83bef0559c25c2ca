"""How far the shipped model and the conventional methods are from what the photons allow.

Run: python benchmarks/optimum.py [--events 1500] [--hmc-events 24] [--seed 900011] [--json FILE]

Synthetic signal events of 52.8 MeV whose random numbers are known. The optimum is Laplace's on all
of them, and the exact posterior's by Hamiltonian Monte Carlo on a weighted subset: as it expects
its errors to be, and as they are on the very same readings. Like the network it does not know
that all gammas have one energy: the prior is flat, 12 to 62 MeV.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from machine import machine
from xec.detector.geometry import Geometry, parametric
from xec.engines.onnx import OnnxEngine
from xec.optimum.comparison import (
    HALF_NORMAL,
    DeadSensors,
    Measured,
    absolute,
    half68,
    mixture_half68,
    ratio,
)
from xec.optimum.events import EventSource, KnownEvents
from xec.optimum.hmc import HmcSettings
from xec.optimum.laplace import GAMMA_NAMES, Laplace
from xec.optimum.latent import LatentModel
from xec.optimum.lightmap import LightMap
from xec.optimum.lost import DEAD_MAPS, point_widening, shower_widening
from xec.optimum.point_source import COMPONENTS
from xec.optimum.posterior import Posterior, PosteriorSampler
from xec.optimum.strata import choose, importance
from xec.recovery.neighbour_average import neighbour_average
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex
from xec.simulation.deadmap import draw_dead_maps
from xec.simulation.generator import SimulationConfig
from xec.simulation.vertex import SourceConfig
from xec_export.events import contract_inputs

Array = NDArray[np.float64]

SIGNAL = 52.8  # MeV
PRIOR = SourceConfig(energy=(12.0, 62.0))  # as in training
LAPLACE_BATCH, NETWORK_BATCH, HMC_BATCH = 4, 50, 8
MAPS = 40  # dead maps of each kind
POINT_PLACES = {"centre": (0.0, 0.0), "corner": (22.0, 65.0)}  # u, v in cm
POINT_DEPTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # cm
POINT_EFFICIENCY = 0.12


@dataclass(frozen=True)
class Study:
    """What all parts use."""

    source: EventSource
    laplace: Laplace
    sampler: PosteriorSampler
    engine: OnnxEngine
    geometry: Geometry
    console: Console
    seed: int


@dataclass(frozen=True)
class LaplaceFound:
    """Laplace's optimum: variances at the asked-for sensors (K,), deviations (B, 6)."""

    variance: Array
    known_energy: Array
    with_times: Array
    gamma: Array
    gamma_with_times: Array


def laplace_of(study: Study, events: KnownEvents, asked: torch.Tensor) -> LaplaceFound:
    """Over all events, with counts alone, with the energy known, and with times."""
    light: list[list[Array]] = [[], [], []]
    gamma: list[list[Array]] = [[], [], []]
    steps = range(0, len(events), LAPLACE_BATCH)
    for first in track(steps, description="Laplace", console=study.console):
        rows = slice(first, first + LAPLACE_BATCH)
        some = events[rows]
        full = study.laplace.jacobians(some.z, times=True)
        counts = full._replace(of_time=None)
        for index, jacobian in enumerate((counts, counts.at_known_energy(), full)):
            best = study.laplace.optimum(jacobian, some, some.live)
            light[index].append(best.light[asked[rows]].square().numpy())
            gamma[index].append(best.gamma.numpy())
    found = [np.concatenate(parts) for parts in light]
    return LaplaceFound(*found, np.concatenate(gamma[0]), np.concatenate(gamma[2]))


def methods_of(
    study: Study, events: KnownEvents, asked: torch.Tensor
) -> tuple[dict[str, Array], Array]:
    """Fills (K,) of each method, and errors (B, 6) of the network's gamma."""
    fills: dict[str, list[Array]] = {}
    gamma = []
    steps = range(0, len(events), NETWORK_BATCH)
    for first in track(steps, description="network", console=study.console):
        rows = slice(first, first + NETWORK_BATCH)
        batch, here = events[rows].batch, asked[rows].numpy()
        inputs = contract_inputs(batch)
        outputs = study.engine.infer(inputs)
        npho = np.asarray(inputs["npho"], dtype=np.float32)
        valid = inputs["npho_valid"].astype(np.bool_)
        vertex = conventional_vertex(npho, valid, study.geometry)
        for name, fill in {
            "shipped network": outputs["npho_mean"],
            "solid angle": solid_angle_ratio(npho, valid, vertex, study.geometry),
            "neighbour average": neighbour_average(npho, valid, study.geometry),
        }.items():
            fills.setdefault(name, []).append(np.asarray(fill, dtype=np.float64)[here])
        truth = (batch.energy.unsqueeze(1), batch.uvw, batch.angle)
        answer = (outputs[name] for name in ("energy", "uvw", "angle"))
        parts = [mean - exact.numpy() for mean, exact in zip(answer, truth, strict=True)]
        gamma.append(np.concatenate(parts, axis=1).astype(np.float64))
    return {name: np.concatenate(parts) for name, parts in fills.items()}, np.concatenate(gamma)


def chains_of(
    study: Study, events: KnownEvents, asked: torch.Tensor, rows: NDArray[np.int64], told: bool
) -> list[Posterior]:
    """Posteriors of the events `rows`, a few at a time; of `asked` in front, if so `told`."""
    rng = torch.Generator().manual_seed(study.seed)
    found = []
    steps = range(0, len(rows), HMC_BATCH)
    for first in track(steps, description="chains", console=study.console):
        some = torch.as_tensor(rows[first : first + HMC_BATCH])
        region = study.source.front_region(asked[some]) if told else None
        found.append(study.sampler.run(events[some], asked[some], rng, region))
    return found


@dataclass(frozen=True)
class ChainsFound:
    """The exact optimum of each event of a subset, as sums (n, 3), and how good the chains are."""

    expected: Array  # from the posterior's own spread
    actual: Array  # from the errors of its mean (squared) and median (absolute)
    quality: dict[str, float]
    gamma: dict[str, Array]  # variances and effective draws (n, 6)


def subset_of(
    sensors: DeadSensors,
    rows: NDArray[np.int64],
    weight: Array,
    found: list[Posterior],
    light: Array,
) -> ChainsFound:
    """What the chains `found` of the events `rows` say."""
    joined = {
        name: np.concatenate([getattr(part, name).numpy() for part in found])
        for name in ("variance", "absolute", "mean", "median", "effective")
    }
    here = np.concatenate([np.flatnonzero(sensors.event == row) for row in rows])
    place = np.repeat(np.arange(len(rows)), [(sensors.event == row).sum() for row in rows])
    mine = DeadSensors(place, sensors.variance[here], len(rows))
    of_mean, of_median = (joined[name] - light[here] for name in ("mean", "median"))
    pull2 = of_mean**2 / joined["variance"].clip(1e-12)
    quality = {
        "events": float(len(rows)),
        "acceptance": float(np.mean([part.chains.accepted.mean() for part in found])),
        "effective_median": float(np.median(joined["effective"])),
        "effective_5_percent": float(np.quantile(joined["effective"], 0.05)),
        "pull_rms": float(np.sqrt(np.average(pull2, weights=weight[place]))),
    }
    of_gamma = ("gamma_variance", "gamma_effective")
    return ChainsFound(
        mine.of_spread(joined["variance"], joined["absolute"]),
        mine.of_spread(of_mean**2, np.abs(of_median)),
        quality,
        {name: np.concatenate([getattr(part, name) for part in found]) for name in of_gamma},
    )


def study_of(
    study: Study, events: KnownEvents, asked: torch.Tensor, hmc_events: int, *, told: bool
) -> dict[str, Any]:
    """All figures of one set of events.

    `told` that the conversion lies behind the one sensor asked for, the posterior is that of
    someone who knows how the events were chosen; the methods are not told.
    """
    batch = events.batch
    light, reading = (part[asked].double().numpy() for part in (batch.light, batch.npho))
    spread = study.laplace.readings.variance(batch.light, batch.efficiency)
    sensors = DeadSensors(asked.nonzero()[:, 0].numpy(), spread[asked].numpy(), len(events))
    best = laplace_of(study, events, asked)
    fills, gamma_error = methods_of(study, events, asked)
    size = importance(best.variance, sensors.event, len(events))
    rows, weight = choose(size, min(hmc_events, len(events)), study.seed)
    posteriors = chains_of(study, events, asked, rows, told)
    chains = subset_of(sensors, rows, weight, posteriors, light)

    def spread_sums(variance: Array) -> Array:
        return sensors.of_spread(variance, HALF_NORMAL * np.sqrt(variance))

    laplace = spread_sums(best.variance)
    sums = {
        "Laplace": laplace,
        "Laplace, energy known": spread_sums(best.known_energy),
        "Laplace, with times": spread_sums(best.with_times),
        "reading (its noise)": sensors.of_errors(reading - light),
        **{name: sensors.of_errors(fill - light) for name, fill in fills.items()},
    }
    return {
        "events": len(events),
        "sensors": len(light),
        "chains": chains.quality,
        "actual_to_expected": plain(ratio(chains.actual, chains.expected, weight)),
        "filling": {
            name: {
                "error": plain(absolute(part, sensors.count)),
                "to_laplace": plain(ratio(part, laplace, np.ones(len(events)))),
                "to_expected": plain(ratio(part[rows], chains.expected, weight)),
                "to_actual": plain(ratio(part[rows], chains.actual, weight)),
            }
            for name, part in sums.items()
        },
        "gamma": gamma_figures(best, gamma_error, chains.gamma, rows, weight),
    }


def plain(figures: dict[str, Measured]) -> dict[str, dict[str, float]]:
    """For JSON."""
    return {name: asdict(figure) for name, figure in figures.items()}


def gamma_figures(
    best: LaplaceFound,
    error: Array,
    chain: dict[str, Array],
    rows: NDArray[np.int64],
    weight: Array,
) -> dict[str, dict[str, float]]:
    """Half widths of 68 % of the network and of Laplace's optimum, and the chains' correction."""
    figures = {}
    for column, name in enumerate(GAMMA_NAMES):
        network = half68(error[:, column])
        optimum = mixture_half68(best.gamma[:, column])
        sigmas = [np.sqrt(chain["gamma_variance"][:, column]), best.gamma[rows, column]]
        sums = [np.repeat(sigma[:, None], 3, axis=1) for sigma in sigmas]
        exact = ratio(sums[0], sums[1], weight)["mean_absolute"]
        figures[name] = {
            "network": network.value,
            "network_error": network.error,
            "laplace": optimum,
            "laplace_with_times": mixture_half68(best.gamma_with_times[:, column]),
            "network_to_laplace": network.value / optimum,
            "chain_to_laplace": exact.value,
            "chain_to_laplace_error": exact.error,
            "effective_median": float(np.median(chain["gamma_effective"][:, column])),
        }
    return figures


def lost_in_showers(
    study: Study, events: KnownEvents, front: KnownEvents, asked: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Factors by which dead sensors widen Laplace's optimum of the gamma."""
    rng = torch.Generator().manual_seed(study.seed)
    cases = {
        name: (events, draw_dead_maps(len(events), config, rng))
        for name, config in DEAD_MAPS.items()
    }
    cases["sensor in front"] = (front, asked)
    found = {}
    for name, (some, dead) in track(cases.items(), description="lost", console=study.console):
        wider = shower_widening(study.laplace, some, dead)
        found[name] = dict(zip(GAMMA_NAMES, wider.tolist(), strict=True))
    return found


def lost_to_points(study: Study) -> list[dict[str, Any]]:
    """Cramér-Rao bounds of point deposits, and the factors by which dead sensors widen them."""
    rng = torch.Generator().manual_seed(study.seed)
    maps = {name: draw_dead_maps(MAPS, config, rng) for name, config in DEAD_MAPS.items()}
    rows = []
    for place, (u, v) in POINT_PLACES.items():
        for w in POINT_DEPTHS:
            uvw = torch.tensor([u, v, w], dtype=torch.float64)
            wider = {}
            for name, dead in maps.items():
                bound, wide, alone = point_widening(
                    study.laplace, uvw, SIGNAL, POINT_EFFICIENCY, dead
                )
                wider[name] = wide.tolist()
            wider["most telling sensor"] = alone.tolist()
            rows.append({"place": place, "depth": w, "bound": bound.tolist(), "wider": wider})
    return rows


def show_filling(console: Console, title: str, found: dict[str, Any]) -> None:
    """One table of errors on dead sensors: RMS / mean |error| / RMS in units of the noise."""
    title = f"{title}: {found['events']} events, {found['sensors']} dead sensors"
    kinds = ("error", "to_laplace", "to_expected", "to_actual")
    table = Table("RMS; mean |error|; RMS / noise", *kinds, title=title)
    for name, figures in found["filling"].items():
        cells = [
            "; ".join(f"{one['value']:.3g} ± {one['error']:.1g}" for one in figures[kind].values())
            for kind in kinds
        ]
        table.add_row(name, *cells)
    console.print(table)
    for kind in ("actual_to_expected", "chains"):
        console.print(kind, found[kind])


def show_rest(console: Console, report: dict[str, Any]) -> None:
    """Tables of the gamma and of the information lost."""
    table = Table(
        "", "network", "Laplace", "with times", "ratio", "chains / Laplace", title="Gamma"
    )
    for name, row in report["overall"]["gamma"].items():
        columns = ("network", "laplace", "laplace_with_times", "network_to_laplace")
        exact = f"{row['chain_to_laplace']:.3g} ± {row['chain_to_laplace_error']:.1g}"
        table.add_row(name, *(f"{row[key]:.3g}" for key in columns), exact)
    console.print(table)
    table = Table("showers", *GAMMA_NAMES, title="Widening by dead sensors, per cent")
    for name, row in report["lost_in_showers"].items():
        table.add_row(name, *(f"{100 * (value - 1):.2f}" for value in row.values()))
    console.print(table)
    table = Table("point at", "w", *COMPONENTS, *report["points"][0]["wider"], title="Points")
    for row in report["points"]:
        bounds = (f"{value:.2g}" for value in row["bound"])
        wider = ("/".join(f"{100 * (x - 1):.1f}" for x in each) for each in row["wider"].values())
        table.add_row(row["place"], f"{row['depth']}", *bounds, *wider)
    console.print(table)


def new_study(model: Path, seed: int, draws: int, console: Console) -> Study:
    """Everything that the parts need."""
    geometry, config, latent = parametric(), SimulationConfig(), LatentModel(PRIOR)
    laplace = Laplace(latent, LightMap(config.optics, geometry))
    sampler = PosteriorSampler(
        laplace, LightMap(config.optics, geometry, torch.float32), HmcSettings(draws=draws)
    )
    engine = OnnxEngine(model, geometry_hash=geometry.hash)
    source = EventSource(latent, config, geometry, seed)
    return Study(source, laplace, sampler, engine, geometry, console, seed)


def main() -> None:
    """Measure; print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("model_repository"))
    parser.add_argument("--events", type=int, default=1500)
    parser.add_argument("--front-events", type=int, default=300)
    parser.add_argument("--hmc-events", type=int, default=24, help="of each kind")
    parser.add_argument("--hmc-draws", type=int, default=120)
    parser.add_argument("--seed", type=int, default=900_011)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(stderr=True)
    study = new_study(arguments.model, arguments.seed, arguments.hmc_draws, console)
    events = study.source.draw(arguments.events, SIGNAL)
    front, asked = study.source.draw_in_front(arguments.front_events, SIGNAL)
    asked &= front.batch.npho_valid
    known = asked.any(-1)
    front, asked = front[known], asked[known]
    dead = events.batch.dead & events.batch.npho_valid
    report: dict[str, Any] = {
        "overall": study_of(study, events, dead, arguments.hmc_events, told=False),
        "front": study_of(study, front, asked, arguments.hmc_events, told=True),
        "lost_in_showers": lost_in_showers(study, events[:200], front, asked),
        "points": lost_to_points(study),
    }
    where = {**machine(), "model": study.engine.model.sha256[:12], "synthetic": "true"}
    out = Console(width=240)
    show_filling(out, "Dead sensors", report["overall"])
    show_filling(out, "Sensor in front, of which the optimum is told", report["front"])
    show_rest(out, report)
    out.print(where)
    if arguments.json is not None:
        report = {"machine": where, "seed": arguments.seed, **report}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
