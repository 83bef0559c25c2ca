"""How well sigmas and intervals hold on fresh events: pulls, coverage and CRPS, as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from xec.contract import SENSOR_ESTIMATES
from xec.metrics.scores import gaussian_crps, pull_width
from xec.reliability.domain import Domain
from xec.reliability.intervals import LEVELS, Intervals
from xec_training.calibration_sample import COLUMNS, COMPONENTS, Sample
from xec_training.conformal import one_per_event

FloatArray = NDArray[np.float64]

LEAST_IN_BIN = 300
"""Events that a bin needs to count as the worst: its coverage is known to 2.7 %."""

UNITS = dict(
    zip(COMPONENTS, ("MeV", "ns", "cm", "cm", "cm", "degrees", "degrees"), strict=True)
) | {"npho": "photons", "time": "ns"}


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """One quantity on fresh events.

    Args:
        name: of the quantity.
        events: that were looked at; of sensors one of each event in each bin of light.
        width: half of the central 68.27 % of the pulls; 1 when the core is right.
        rms: of the pulls; above the width where the tails are long.
        coverage: share of truths inside the interval, per level of `LEVELS`.
        worst: the coverage of the bin that is furthest from the level; NaN without full bins.
        crps: continuous ranked probability score, in the unit of the quantity.
    """

    name: str
    events: int
    width: float
    rms: float
    coverage: tuple[float, ...]
    worst: tuple[float, ...]
    crps: float


def coverage_rows(sample: Sample, intervals: Intervals, seed: int) -> list[CoverageRow]:
    """A row per component of the gamma and per estimate and kind of sensor.

    Args:
        sample: fresh events, with the scales applied.
        intervals: that were measured on others.
        seed: of the sensors that are drawn, one of each event in each bin.
    """
    rows = []
    place = np.searchsorted(intervals.depth_edges, sample.uvw[:, 2], side="right")
    for name, columns in COLUMNS.items():
        if name not in intervals.gamma or len(sample.error) == 0:
            continue
        factors = intervals.gamma[name][:, place]  # (levels, n, width)
        for offset, column in enumerate(range(columns.start, columns.stop)):
            error, sigma = sample.error[:, column], sample.sigma[:, column]
            rows.append(_row(COMPONENTS[column], error, sigma, factors[..., offset], place))
    for column, estimate in enumerate(SENSOR_ESTIMATES):
        for label, kind in (("inner", sample.is_mppc), ("PMT", ~sample.is_mppc)):
            row = _sensor_row(f"{estimate.name}, {label}", column, sample, kind, intervals, seed)
            rows += [] if row is None else [row]
    return rows


def _sensor_row(
    name: str,
    column: int,
    sample: Sample,
    kind: NDArray[np.bool_],
    intervals: Intervals,
    seed: int,
) -> CoverageRow | None:
    usable = kind & np.isfinite(sample.sensor_error[:, column])
    rng = np.random.default_rng(seed)
    bins = np.searchsorted(intervals.light_edges, sample.light, side="right")
    chosen = np.concatenate(
        [one_per_event(sample.event, usable & (bins == k), rng) for k in np.unique(bins)]
        or [np.empty(0, dtype=np.int64)]
    )
    estimate = SENSOR_ESTIMATES[column].name
    light, is_mppc = sample.light[chosen], sample.is_mppc[chosen]
    factors = [intervals.sensor_scale(estimate, light, is_mppc, level) for level in LEVELS]
    known = [values for values in factors if values is not None]
    if len(chosen) == 0 or len(known) < len(LEVELS):
        return None
    error, sigma = sample.sensor_error[chosen, column], sample.sensor_sigma[chosen, column]
    return _row(name, error, sigma, np.stack(known), bins[chosen])


def _row(
    name: str, error: FloatArray, sigma: FloatArray, factors: FloatArray, place: NDArray[np.int64]
) -> CoverageRow:
    """A row from errors (n,), sigmas (n,), factors (levels, n) and the number of a bin (n,)."""
    inside = np.abs(error / sigma) <= factors
    full = [k for k in np.unique(place) if (place == k).sum() >= LEAST_IN_BIN]
    worst = []
    for level, covered in zip(LEVELS, inside, strict=True):
        shares = [float(covered[place == k].mean()) for k in full]
        worst.append(max(shares, key=lambda share: abs(share - level), default=math.nan))
    width, rms = pull_width(error / sigma)
    coverage = tuple(float(covered.mean()) for covered in inside)
    crps = float(gaussian_crps(error, sigma).mean())
    return CoverageRow(name, len(error), width, rms, coverage, tuple(worst), crps)


def false_alarms(features: FloatArray, domain: Domain | None) -> float | None:
    """Share of events that a domain calls foreign; None without events or a domain."""
    if domain is None or len(features) == 0:
        return None
    return float(np.mean([domain.is_outside(row) for row in features]))


def table_of(rows: Sequence[CoverageRow]) -> Table:
    """The rows for people."""
    table = Table(title="Fresh held-out events")
    headings = ("quantity", "events", "pull width", "pull RMS", "68 %", "worst bin", "95 %")
    for heading in (*headings, "worst bin", "CRPS"):
        table.add_column(heading, justify="left" if heading == "quantity" else "right")
    for row in rows:
        shares = [
            f"{share:.1%}" if math.isfinite(share) else "-"
            for pair in zip(row.coverage, row.worst, strict=True)
            for share in pair
        ]
        unit = UNITS[row.name.split(",")[0]]
        table.add_row(
            row.name,
            str(row.events),
            f"{row.width:.3f}",
            f"{row.rms:.3f}",
            *shares,
            f"{row.crps:.3g} {unit}",
        )
    return table
