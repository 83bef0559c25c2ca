"""Errors of the filled sensors, as a stream: by face, light and dead neighbours, and the worst."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import FACE_IDS, INNER_GRID, IS_MPPC, N_CHANNELS, N_MPPC
from xec.event import BoolArray
from xec.metrics.noise import CountingNoise
from xec.metrics.reservoir import Largest, Reservoir
from xec.metrics.spread import within
from xec.metrics.sums import BRIGHT, ErrorSums
from xec_evaluation.content import NETWORK, FillingRow
from xec_evaluation.modes import Masked

FloatArray = NDArray[np.float64]

FACES: Final = tuple(face.value for face in FACE_IDS)

LIGHT_EDGES: Final = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Photons, between the groups by reading."""

LIGHT_GROUPS: Final = ("< 10", "10–30", "30–100", "100–300", "300–1000", "1000–3000",
                       "3000–10000", "≥ 10000")  # fmt: skip

NEIGHBOUR_GROUPS: Final = ("0", "1", "2", "3–4", "5–8")
"""Of the eight around an inner sensor, how many cannot be used."""

_NEIGHBOUR_GROUP: Final = np.array([0, 1, 2, 3, 3, 4, 4, 4, 4])

GROUPINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "all": ("all",),
    "face": FACES,
    "light": LIGHT_GROUPS,
    "dead neighbours": NEIGHBOUR_GROUPS,
}

WORST_SENSORS: Final = 10


def _face_numbers() -> NDArray[np.int64]:
    numbers = np.empty(N_CHANNELS, dtype=np.int64)
    for number, ids in enumerate(FACE_IDS.values()):
        numbers[ids] = number
    return numbers


_FACE_OF: Final = _face_numbers()


def dead_neighbours(valid: BoolArray) -> NDArray[np.int64]:
    """How many of the up to eight sensors around each inner sensor are unusable, (B, 4092).

    Args:
        valid: (B, 4760).
    """
    rows, columns = INNER_GRID.shape
    dead = np.pad(~valid[:, INNER_GRID], ((0, 0), (1, 1), (1, 1))).astype(np.int64)
    around = [
        dead[:, row : row + rows, column : column + columns]
        for row in range(3)
        for column in range(3)
        if (row, column) != (1, 1)
    ]
    total: NDArray[np.int64] = np.sum(around, axis=0).reshape(len(valid), N_MPPC)
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The masked sensors of some events, side by side: n of them.

    `row` is the event's place in its chunk; `groups` the place in each grouping, -1 for none.
    """

    row: NDArray[np.int64]
    channel: NDArray[np.int64]
    truth: FloatArray
    sigma: FloatArray
    fill: Mapping[str, FloatArray]
    groups: Mapping[str, NDArray[np.int64]]


def answers_of(masked: Masked, fill: Mapping[str, Any], sigma: NDArray[Any]) -> Answers:
    """What the methods answer at the masked sensors.

    Args:
        masked: the events.
        fill: per method photons of all sensors, (B, 4760).
        sigma: the network's, (B, 4760).
    """
    row, channel = np.nonzero(masked.asked)
    truth = masked.reading[row, channel].astype(np.float64)
    beside = np.full(len(row), -1)
    inner = channel < N_MPPC
    around = dead_neighbours(masked.events.npho_valid)
    beside[inner] = _NEIGHBOUR_GROUP[around[row[inner], channel[inner]]]
    return Answers(
        row,
        channel,
        truth,
        sigma[row, channel].astype(np.float64),
        {name: values[row, channel].astype(np.float64) for name, values in fill.items()},
        {
            "all": np.zeros(len(row), dtype=np.int64),
            "face": _FACE_OF[channel],
            "light": np.searchsorted(LIGHT_EDGES, truth, side="right"),
            "dead neighbours": beside,
        },
    )


class Filling:
    """Accumulates the answers of all methods.

    Args:
        methods: names, the network's first.
        capacity: sensors that are kept for quantiles.
        seed: of the sample.
    """

    def __init__(self, methods: tuple[str, ...], capacity: int, seed: int) -> None:
        self.methods = methods
        columns = ("truth", "sigma", *GROUPINGS, *methods)
        self.sample = Reservoir(columns, capacity, seed)
        self.worst = Largest(7, WORST_SENSORS)
        self._sums = {
            name: {method: ErrorSums(len(groups)) for method in methods}
            for name, groups in GROUPINGS.items()
        }
        # Light by grouping, kind of sensor (PMT, MPPC) and group.
        self._light = {name: np.zeros((2, len(groups))) for name, groups in GROUPINGS.items()}

    def add(self, answers: Answers, file: int, masked: Masked) -> None:
        """Add the answers to a chunk of file number `file`."""
        for name in GROUPINGS:
            group = answers.groups[name]
            known = group >= 0
            for method in self.methods:
                error = (answers.fill[method] - answers.truth)[known]
                self._sums[name][method].add(group[known], error, answers.truth[known])
            for kind in (False, True):
                of_kind = known & (IS_MPPC[answers.channel] == kind)
                self._light[name][int(kind)] += np.bincount(
                    group[of_kind], answers.truth[of_kind], len(GROUPINGS[name])
                )
        columns = [answers.truth, answers.sigma, *(answers.groups[name] for name in GROUPINGS)]
        columns += [answers.fill[method] for method in self.methods]
        self.sample.add(np.stack(columns, axis=1))
        self._add_worst(answers, file, masked)

    def _add_worst(self, answers: Answers, file: int, masked: Masked) -> None:
        run, event = masked.events.run[answers.row], masked.events.event[answers.row]
        fill = answers.fill[NETWORK]
        where = [np.full(len(run), file), run, event, answers.channel]
        rows = np.stack([*where, answers.truth, fill, answers.sigma], axis=1)
        self.worst.add(np.abs(fill - answers.truth), rows)

    def rows(self, noise: CountingNoise, errors: Mapping[str, FloatArray]) -> list[FillingRow]:
        """The figures of every method in every group that holds a sensor.

        Args:
            noise: of the readings.
            errors: per method the bootstrap errors of MAE, RMSE and bias over all sensors.
        """
        return list(self._rows(noise, errors))

    def _rows(self, noise: CountingNoise, errors: Mapping[str, FloatArray]) -> Iterator[FillingRow]:
        for name, groups in GROUPINGS.items():
            place = self.sample.column(name)
            for number, group in enumerate(groups):
                kept = place == number
                for method in self.methods:
                    sums = self._sums[name][method]
                    if sums.count[number] + sums.missing[number]:
                        floor = self._floor(noise, name, number)
                        row = self._row(method, name, number, kept, floor)
                        yield row if group != "all" else _with_errors(row, errors[method])

    def _floor(self, noise: CountingNoise, name: str, number: int) -> float:
        """RMS of the readings' noise in a group; NaN where it is unknown.

        A reading stands for its own light. On average over sensors that were not chosen by their
        reading that is right; among the dim ones of a range of readings it is not.
        """
        if name == "light" and number < np.searchsorted(LIGHT_EDGES, BRIGHT, side="right"):
            return math.nan
        variance = 0.0
        for kind in (False, True):
            light = self._light[name][int(kind), number]
            if light != 0.0:
                variance += light * noise.per_photon(kind)
        sums = self._sums[name][NETWORK]
        count = sums.count[number] + sums.missing[number]
        return math.sqrt(variance / count) if variance > 0 else math.nan

    def _row(
        self, method: str, name: str, number: int, kept: BoolArray, floor: float
    ) -> FillingRow:
        sums = self._sums[name][method]
        error = (self.sample.column(method) - self.sample.column("truth"))[kept]
        error = error[np.isfinite(error)]
        rmse = float(sums.rmse[number])
        return FillingRow(
            method=method,
            grouping=name,
            group=GROUPINGS[name][number],
            sensors=int(sums.count[number]),
            missing=int(sums.missing[number]),
            mae=float(sums.mae[number]),
            rmse=rmse,
            bias=float(sums.bias[number]),
            within68=within(error, 0.68),
            within95=within(error, 0.95),
            relative=float(sums.relative[number]),
            noise=floor,
            rmse_over_noise=rmse / floor,
        )


def _with_errors(row: FillingRow, errors: FloatArray) -> FillingRow:
    mae, rmse, bias = errors.tolist()
    return replace(row, mae_error=mae, rmse_error=rmse, bias_error=bias)
