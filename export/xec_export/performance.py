"""How good a network is on fresh signal events, beside the two simple conventional methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from xec.contract import GAMMA_ESTIMATES
from xec.detector.geometry import Geometry
from xec.recovery.neighbour_average import neighbour_average
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex
from xec.simulation.generator import Generator, SimulatedBatch, SimulationConfig
from xec_export.events import contract_inputs

Array = NDArray[np.float64]
Infer = Callable[[dict[str, NDArray[np.generic]]], Mapping[str, NDArray[np.float32]]]
BATCH: Final = 50
BRIGHT: Final = 100.0  # photons; relative errors are quoted above this


@dataclass(frozen=True, slots=True)
class Filling:
    """Errors of one method on dead sensors, against the expected light, in photons."""

    method: str
    mae: float
    rmse: float
    bias: float
    within68: float
    within95: float
    relative: float  # mean |error| / light for light >= BRIGHT
    bright_rmse: float
    missing: int  # sensors that the method could not fill


@dataclass(frozen=True, slots=True)
class Resolution:
    """Error of one component of the gamma: half of the central 68 %, bias, pull and coverage."""

    name: str
    unit: str
    sigma68: float
    bias: float
    pull68: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Performance:
    """Metrics on `events` fresh synthetic signal events with `dead` dead sensors in all."""

    events: int
    dead: int
    noise_rmse: float  # of the readings around the expected light: the floor
    filling: tuple[Filling, ...]
    reading_pull68: float
    resolution: tuple[Resolution, ...]


@dataclass(slots=True)
class _Collected:
    """Errors gathered batch by batch; light and fills at dead sensors, gamma errors and sigmas."""

    light: list[Array]
    reading: list[Array]
    sigma: list[Array]
    fills: dict[str, list[Array]]
    errors: dict[str, list[Array]]
    sigmas: dict[str, list[Array]]


def measure(
    infer: Infer, geometry: Geometry, events: int, seed: int, console: Console
) -> Performance:
    """Metrics of a model on signal events that no training has seen.

    Args:
        infer: from arrays of the contract's inputs to arrays of its outputs.
        geometry: of the simulated detector.
        events: how many.
        seed: of the simulation; not one that a training used.
        console: shows the progress.
    """
    source = Generator(SimulationConfig(), geometry, "cpu", seed)
    found = _Collected([], [], [], {}, {}, {})
    steps = range(0, events, BATCH)
    for start in track(steps, description="measuring on fresh events", console=console):
        _collect(found, infer, geometry, source.sample(min(BATCH, events - start)))
    return _summary(found, events)


def _collect(found: _Collected, infer: Infer, geometry: Geometry, batch: SimulatedBatch) -> None:
    inputs = contract_inputs(batch)
    outputs = {name: value.astype(np.float64) for name, value in infer(inputs).items()}
    dead = (batch.dead & batch.npho_valid).numpy()
    found.light.append(batch.light.double().numpy()[dead])
    found.reading.append(batch.npho.double().numpy()[dead])
    found.sigma.append(outputs["npho_sigma"][dead])
    valid = inputs["npho_valid"].astype(np.bool_)
    npho = np.asarray(inputs["npho"], dtype=np.float32)
    methods: dict[str, Callable[[], Array]] = {
        "this network": lambda: outputs["npho_mean"],
        "neighbour average": lambda: neighbour_average(npho, valid, geometry),
        "solid angle": lambda: solid_angle_ratio(
            npho, valid, conventional_vertex(npho, valid, geometry), geometry
        ),
        "solid angle, true vertex": lambda: solid_angle_ratio(
            npho, valid, batch.xyz.double().numpy(), geometry
        ),
    }
    for name, fill in methods.items():
        found.fills.setdefault(name, []).append(np.asarray(fill())[dead])
    for estimate in GAMMA_ESTIMATES:
        truth = getattr(batch, estimate.name).double().numpy().reshape(len(batch), -1)
        error = outputs[estimate.mean_name] - truth
        found.errors.setdefault(estimate.name, []).append(error)
        found.sigmas.setdefault(estimate.name, []).append(outputs[estimate.sigma_name])


def _summary(found: _Collected, events: int) -> Performance:
    light, reading = np.concatenate(found.light), np.concatenate(found.reading)
    fills = {name: np.concatenate(parts) for name, parts in found.fills.items()}
    pull = (reading - fills["this network"]) / np.concatenate(found.sigma)
    return Performance(
        events=events,
        dead=len(light),
        noise_rmse=_rms(reading - light),
        filling=tuple(_filling(name, fill, light) for name, fill in fills.items()),
        reading_pull68=_half68(pull),
        resolution=tuple(_resolutions(found)),
    )


def _filling(name: str, fill: Array, light: Array) -> Filling:
    known = np.isfinite(fill)
    error, truth = (fill - light)[known], light[known]
    bright = truth >= BRIGHT
    size = np.abs(error)
    return Filling(
        method=name,
        mae=float(size.mean()),
        rmse=_rms(error),
        bias=float(error.mean()),
        within68=float(np.quantile(size, 0.68)),
        within95=float(np.quantile(size, 0.95)),
        relative=float((size[bright] / truth[bright]).mean()),
        bright_rmse=_rms(error[bright]),
        missing=int((~known).sum()),
    )


def _resolutions(found: _Collected) -> list[Resolution]:
    names = {"uvw": ("u", "v", "w"), "angle": ("theta", "phi")}
    rows = []
    for estimate in GAMMA_ESTIMATES:
        error = np.concatenate(found.errors[estimate.name])
        sigma = np.concatenate(found.sigmas[estimate.name])
        for column, name in enumerate(names.get(estimate.name, (estimate.name,))):
            pull = error[:, column] / sigma[:, column]
            rows.append(
                Resolution(
                    name=name,
                    unit=estimate.unit,
                    sigma68=_half68(error[:, column]),
                    bias=float(np.median(error[:, column])),
                    pull68=_half68(pull),
                    coverage=float((np.abs(pull) < 1.0).mean()),
                )
            )
    return rows


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _half68(values: Array) -> float:
    """Half of the width of the central 68.27 %."""
    low, high = np.quantile(values, (0.15865, 0.84135))
    return float(high - low) / 2.0
