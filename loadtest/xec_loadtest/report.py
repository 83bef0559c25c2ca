"""Curves for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from xec_loadtest.latency import Point
from xec_loadtest.sweep import Curve

MOST_DRIFT: Final = 0.15
"""Of the capacity, in the minutes of a sweep; two sweeps of a quiet machine differ by less."""


def as_json(curve: Curve) -> dict[str, Any]:
    """All figures; what cannot be said is null."""
    return asdict(curve)


def knee_sentence(curve: Curve) -> str:
    """Where the knee is, in a sentence."""
    within = f"99 % of the events answered within {1e3 * curve.limit:.0f} ms"
    if curve.knee is None:
        return f"{curve.name}: at no measured rate were {within}."
    rate, above = curve.knee.rate, curve.knee.next_rate
    share = f"{rate / curve.capacity:.0%} of the {curve.capacity:.0f} events/s in a closed loop"
    rest = "the knee lies higher" if above is None else f"not any more at {above:.0f}"
    return f"{curve.name}: knee at {rate:.0f} events/s ({share}): {within}; {rest}."


def drift_warning(curve: Curve) -> str | None:
    """What is to be said of a machine that did other work meanwhile; None where it did not."""
    if curve.drift <= MOST_DRIFT:
        return None
    return (
        f"{curve.name}: {curve.capacity:.0f} events/s in a closed loop before and "
        f"{curve.capacity_after:.0f} after: something else worked on this machine, measure again."
    )


def table_of(curve: Curve) -> Table:
    """One row for each rate."""
    table = Table(
        title=f"{curve.name}: latency from the intended time, ms",
        caption="* not valid: the generator itself was late",
    )
    names = ("offered/s", "good/s", "p50", "p90", "p99", "p99.9", "worst", "lost", "lag")
    for name in names:
        table.add_column(name, justify="right")
    for point in curve.points:
        table.add_row(*_cells(point))
    return table


def _cells(point: Point) -> Sequence[str]:
    times = (point.p50, point.p90, point.p99, point.p999, point.worst)
    return (
        f"{point.offered:.0f}",
        f"{point.goodput:.0f}",
        *("–" if seconds is None else _ms(seconds) for seconds in times),
        str(point.refused + point.late + point.failed),
        _ms(point.lag) if point.valid else f"{_ms(point.lag)}*",
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"
