"""The tables of the report: headings and rows of text, for HTML and for the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xec_evaluation.content import NETWORK, Evaluation, FillingRow, PullRow, WorstRow
from xec_evaluation.quantities import QUANTITIES

ABSENT: Final = "–"
SIGNIFICANT: Final = 3
FIRST_POWER: Final = -4  # below 1e-4 plain decimals are hard to read

_LABELS: Final = {quantity.name: quantity.label for quantity in QUANTITIES}

LEAST_SENSORS: Final = 20
"""Sensors that a row of a table, or a point of a curve, needs."""


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and rows; the first `texts` columns are words, the others numbers.

    `ours` are the rows that are about the network.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1
    ours: frozenset[int] = frozenset()


def number(value: float, digits: int = SIGNIFICANT) -> str:
    """A number with so many significant digits, and a true minus; a dash for none."""
    if not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    text = (
        f"{value:.{digits - 1}e}"
        if power < FIRST_POWER
        else f"{value:.{max(digits - 1 - power, 0)}f}"
    )
    return text.replace("-", "\N{MINUS SIGN}")


def with_error(value: float, error: float) -> str:
    """A value and its error, to two digits of the error."""
    if not math.isfinite(value):
        return ABSENT
    if not (math.isfinite(error) and error > 0):
        return number(value)
    decimals = max(1 - math.floor(math.log10(error)), 0)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A share in percent, to a tenth."""
    return f"{100 * share:.1f}" if math.isfinite(share) else ABSENT


def _ours(methods: Sequence[str]) -> frozenset[int]:
    rows = frozenset(place for place, method in enumerate(methods) if method == NETWORK)
    return frozenset() if len(rows) == len(methods) else rows


def filling_table(evaluation: Evaluation) -> Table:
    """All masked sensors, one row per method."""
    rows = [row for row in evaluation.filling if row.grouping == "all"]
    return Table(
        "All masked sensors, against the readings, in photons; errors by bootstrap over events.",
        (
            "method",
            "MAE",
            "RMSE",
            "bias",
            "68 %",
            "95 %",
            "relative",
            "RMSE / noise",
            "not filled",
        ),
        tuple(
            (
                row.method,
                with_error(row.mae, row.mae_error),
                with_error(row.rmse, row.rmse_error),
                with_error(row.bias, row.bias_error),
                *_filling_cells(row)[3:],
                str(row.missing),
            )
            for row in rows
        ),
        ours=_ours([row.method for row in rows]),
    )


def _filling_cells(row: FillingRow) -> tuple[str, ...]:
    values = (row.mae, row.rmse, row.bias, row.within68, row.within95)
    relative = f"{percent(row.relative)} %" if math.isfinite(row.relative) else ABSENT
    return (*map(number, values), relative, number(row.rmse_over_noise))


def group_table(evaluation: Evaluation, grouping: str, heading: str) -> Table:
    """One row per group and method, for groups that hold enough sensors to say something."""
    of_grouping = [row for row in evaluation.filling if row.grouping == grouping]
    rows = [row for row in of_grouping if row.sensors >= LEAST_SENSORS]
    caption = "Photons, against the readings."
    if any(0 < row.sensors < LEAST_SENSORS for row in of_grouping):
        caption += f" Groups of fewer than {LEAST_SENSORS} sensors are left out."
    return Table(
        caption,
        (
            heading,
            "method",
            "sensors",
            "MAE",
            "RMSE",
            "bias",
            "68 %",
            "95 %",
            "relative",
            "RMSE / noise",
        ),
        tuple((row.group, row.method, str(row.sensors), *_filling_cells(row)) for row in rows),
        texts=2,
        ours=_ours([row.method for row in rows]),
    )


def resolution_table(evaluation: Evaluation) -> Table:
    """Signed quantities of the gamma, the methods one below the other."""
    rows = evaluation.resolution
    return Table(
        "Estimate minus truth; errors by bootstrap over events.",
        ("quantity", "method", "unit", "bias", "σ_eff", "σ68", "95 %", "events"),
        tuple(
            (
                _LABELS[row.quantity],
                row.method,
                row.unit,
                with_error(row.bias, row.bias_error),
                with_error(row.sigma_eff, row.sigma_eff_error),
                with_error(row.sigma68, row.sigma68_error),
                with_error(row.within95, row.within95_error),
                str(row.events),
            )
            for row in rows
        ),
        texts=3,
        ours=_ours([row.method for row in rows]),
    )


def distance_table(evaluation: Evaluation) -> Table:
    """Distances of the gamma from its truth."""
    rows = evaluation.distances
    return Table(
        "Quantiles of the distance from the truth.",
        ("quantity", "method", "unit", "68 %", "95 %", "events"),
        tuple(
            (
                _LABELS[row.quantity],
                row.method,
                row.unit,
                with_error(row.within68, row.within68_error),
                with_error(row.within95, row.within95_error),
                str(row.events),
            )
            for row in rows
        ),
        texts=3,
        ours=_ours([row.method for row in rows]),
    )


def pull_table(rows: Sequence[PullRow], caption: str) -> Table:
    """Pulls, coverage and CRPS."""
    return Table(
        caption,
        (
            "quantity",
            "group",
            "mean pull",
            "pull width",
            "pull RMS",
            "inside 68 %",
            "inside 95 %",
            "CRPS",
            "unit",
            "count",
        ),
        tuple(
            (
                _LABELS.get(row.quantity, row.quantity),
                row.group,
                number(row.mean, 2),
                f"{row.width68:.3f}",
                f"{row.rms:.3f}",
                percent(row.coverage68),
                percent(row.coverage95),
                number(row.crps),
                row.unit,
                str(row.count),
            )
            for row in rows
        ),
        texts=2,
    )


def worst_table(rows: Sequence[WorstRow]) -> Table:
    """The events that are farthest off, and in which file."""
    return Table(
        "Farthest off first; the network's answers.",
        (
            "quantity",
            "file",
            "run",
            "event",
            "channel",
            "truth",
            "estimate",
            "error",
            "unit",
            "pull",
        ),
        tuple(
            (
                row.quantity,
                Path(row.path).name,
                str(row.run),
                str(row.event),
                str(row.channel) if row.channel >= 0 else ABSENT,
                number(row.truth),
                number(row.estimate),
                number(row.error),
                row.unit,
                number(row.pull, 2),
            )
            for row in rows
        ),
        texts=2,
    )


def cost_table(evaluation: Evaluation) -> Table:
    """Events per second of each method on this machine."""
    return Table(
        "On this machine, while the report was made; reading files is not in it.",
        ("method", "events per second", "seconds", "events"),
        tuple(
            (row.method, number(row.rate), number(row.seconds), str(row.events))
            for row in evaluation.cost
        ),
        ours=_ours([row.method for row in evaluation.cost]),
    )
