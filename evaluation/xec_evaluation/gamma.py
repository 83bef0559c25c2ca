"""Errors of the gamma: resolutions, curves, pulls and calibration, from a sample of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.metrics.bins import LEAST, Bin, merged_bins
from xec.metrics.bootstrap import bootstrap_error
from xec.metrics.scores import calibration_curve, gaussian_crps, pull_width
from xec.metrics.spread import half68, sigma_eff, within
from xec_evaluation.content import (
    NETWORK,
    BinRow,
    Calibration,
    DistanceRow,
    ErrorSample,
    PullRow,
    ResolutionRow,
)
from xec_evaluation.quantities import (
    AXES,
    COMPONENTS,
    QUANTITIES,
    Axis,
    Quantity,
    errors,
)

FloatArray = NDArray[np.float64]
Statistic = Callable[[NDArray[np.floating[Any]]], float]

LEAST_EVENTS: Final = 20
"""Events that a resolution needs at all."""

LEVELS: Final = tuple(float(level) for level in np.linspace(0.05, 0.95, 19))
BIN_REPLICAS: Final = 100

_FEWEST_BINS: Final = 12
_MOST_BINS: Final = 50


def histogram_bins(count: int) -> int:
    """Bins in which `count` values still make a smooth picture."""
    return min(max(count // 30, _FEWEST_BINS), _MOST_BINS)


def _mean(values: NDArray[np.floating[Any]]) -> float:
    return float(values.mean())


def _unsigned(share: float) -> Statistic:
    return partial(within, share=share)


@dataclass(frozen=True, slots=True, eq=False)
class GammaSample:
    """Events with truth: rows of seven estimates each (see `quantities.COMPONENTS`).

    Args:
        truth: (n, 7).
        sigma: the network's, (n, 7).
        estimates: per method, (n, 7); NaN where there is none.
        served: half of the served 68 % and 95 % intervals in sigmas, (n, 7) each.
        seed: of the bootstrap.
    """

    truth: FloatArray
    sigma: FloatArray
    estimates: Mapping[str, FloatArray]
    served: tuple[FloatArray, FloatArray]
    seed: int

    def __len__(self) -> int:
        return len(self.truth)

    def errors(self) -> dict[str, dict[str, FloatArray]]:
        """Per method, per quantity the errors (n,)."""
        return {name: errors(values, self.truth) for name, values in self.estimates.items()}

    def pulls(self) -> dict[str, FloatArray]:
        """Per component estimate minus truth over sigma, (n,)."""
        found = errors(self.estimates[NETWORK], self.truth)
        return {name: found[name] / self.sigma[:, k] for k, name in enumerate(COMPONENTS)}


def resolution_rows(sample: GammaSample) -> tuple[list[ResolutionRow], list[DistanceRow]]:
    """Bias and widths over all events, for the methods that answer often enough."""
    signed, distances = [], []
    found = sample.errors()
    for quantity in QUANTITIES:
        for method, values in found.items():
            error = _finite(values[quantity.name])
            if len(error) < LEAST_EVENTS:
                continue
            with_error = partial(_with_error, error, seed=sample.seed)
            about = (quantity.name, quantity.unit, method, len(error))
            quantiles = (*with_error(_unsigned(0.68)), *with_error(_unsigned(0.95)))
            if quantity.signed:
                widths = (*with_error(_mean), *with_error(sigma_eff), *with_error(half68))
                signed.append(ResolutionRow(*about, *widths, *quantiles[2:]))
            else:
                distances.append(DistanceRow(*about, *quantiles))
    return signed, distances


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _with_error(
    values: FloatArray, statistic: Statistic, *, seed: int, replicas: int = 200
) -> tuple[float, float]:
    return statistic(values), bootstrap_error(statistic, values, seed=seed, replicas=replicas)


def bin_rows(sample: GammaSample) -> tuple[list[BinRow], list[str]]:
    """Resolution against energy, depth, position and angle, and what could not be said."""
    rows: list[BinRow] = []
    bins = {}
    found, pulls = sample.errors(), sample.pulls()
    for axis in AXES:
        bins[axis] = merged_bins(sample.truth[:, COMPONENTS.index(axis.name)], axis.edges)
        for quantity in QUANTITIES:
            for method, values in found.items():
                for part in bins[axis]:
                    row = _bin_row(sample, axis, part, quantity, method, values[quantity.name])
                    if row is not None:
                        rows.append(_with_coverage(row, sample, pulls, part))
    return rows, list(_notes(bins))


def _notes(bins: Mapping[Axis, list[Bin]]) -> Iterator[str]:
    merged = [axis.label for axis, parts in bins.items() if any(part.parts > 1 for part in parts)]
    single = [axis.label for axis, parts in bins.items() if len(parts) < 2]
    if merged:
        yield (
            f"Bins with fewer than the {LEAST} events that a resolution needs were joined with "
            f"their neighbours: in {', '.join(merged)}."
        )
    if single:
        yield (
            f"There are not two bins of {LEAST} events, and so no curve, against "
            f"{', '.join(single)}."
        )


def _bin_row(
    sample: GammaSample, axis: Axis, part: Bin, quantity: Quantity, method: str, values: FloatArray
) -> BinRow | None:
    error = _finite(values[part.rows])
    if len(error) < LEAST:
        return None
    with_error = partial(_with_error, error, seed=sample.seed, replicas=BIN_REPLICAS)
    bias, bias_error = with_error(_mean)
    width, width_error = with_error(sigma_eff if quantity.signed else _unsigned(0.68))
    return BinRow(
        axis=axis.name,
        axis_unit=axis.unit,
        low=part.low,
        high=part.high,
        centre=part.centre,
        quantity=quantity.name,
        unit=quantity.unit,
        method=method,
        events=len(error),
        bias=bias,
        bias_error=bias_error,
        width=width,
        width_error=width_error,
    )


def _with_coverage(
    row: BinRow, sample: GammaSample, pulls: Mapping[str, FloatArray], part: Bin
) -> BinRow:
    if row.method != NETWORK or row.quantity not in pulls:
        return row
    pull = pulls[row.quantity][part.rows]
    place = COMPONENTS.index(row.quantity)
    first, second = (scale[part.rows, place] for scale in sample.served)
    return replace(row, coverage68=_inside(pull, first), coverage95=_inside(pull, second))


def _inside(pull: FloatArray, half: FloatArray) -> float:
    """Share of pulls (n,) within intervals of half widths (n,), their ends included."""
    return float(np.mean(np.abs(pull) <= half))


def pull_row(
    quantity: str,
    group: str,
    unit: str,
    *,
    error: FloatArray,
    sigma: FloatArray,
    served: tuple[FloatArray, FloatArray],
) -> PullRow:
    """Pulls, coverage and CRPS of n errors with their predicted standard deviations.

    Args:
        quantity: what is estimated.
        group: which values.
        unit: of the errors.
        error: (n,).
        sigma: (n,).
        served: half of the served 68 % and 95 % intervals in sigmas, (n,) each.
    """
    pull = error / sigma
    width, rms = pull_width(pull)
    return PullRow(
        quantity=quantity,
        group=group,
        count=len(pull),
        mean=float(pull.mean()),
        width68=width,
        rms=rms,
        coverage68=_inside(pull, served[0]),
        coverage95=_inside(pull, served[1]),
        crps=float(gaussian_crps(error, sigma).mean()),
        unit=unit,
    )


def pull_rows(sample: GammaSample) -> list[PullRow]:
    """One row per component of the gamma."""
    units = {quantity.name: quantity.unit for quantity in QUANTITIES}
    found = sample.errors()[NETWORK]
    return [
        pull_row(
            name,
            "all",
            units[name],
            error=found[name],
            sigma=sample.sigma[:, k],
            served=(sample.served[0][:, k], sample.served[1][:, k]),
        )
        for k, name in enumerate(COMPONENTS)
    ]


def calibrations(sample: GammaSample) -> list[Calibration]:
    """Expected and observed coverage of each component's sigma."""
    return [calibration(name, pull) for name, pull in sample.pulls().items()]


def calibration(quantity: str, pull: FloatArray) -> Calibration:
    """Expected and observed coverage of normal intervals."""
    return Calibration(quantity, LEVELS, tuple(calibration_curve(pull, LEVELS)))


def error_samples(sample: GammaSample) -> list[ErrorSample]:
    """Histograms of the errors: shares of the events, up to 1.3 times the wider 95 %."""
    found = sample.errors()
    samples = []
    for quantity in QUANTITIES:
        parts = {name: _finite(values[quantity.name]) for name, values in found.items()}
        parts = {name: part for name, part in parts.items() if len(part) >= LEAST_EVENTS}
        reach = max((within(part, 0.95) for part in parts.values()), default=0.0) * 1.3
        if reach <= 0:
            continue
        bins = histogram_bins(max(map(len, parts.values())))
        edges = np.linspace(-reach if quantity.signed else 0.0, reach, bins + 1)
        shares = {
            name: tuple((np.histogram(part, edges)[0] / len(part)).tolist())
            for name, part in parts.items()
        }
        samples.append(ErrorSample(quantity.name, quantity.unit, tuple(edges.tolist()), shares))
    return samples
