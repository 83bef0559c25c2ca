"""The picture of a sweep: latency and goodput against the offered rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xec.display.colours import FAINT
from xec.io.output import writing
from xec_loadtest.sweep import Curve

_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # safe for colour-blind readers
_LINES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "p50": ("p50", {"linestyle": "--", "linewidth": 1.2}),
    "p99": ("p99", {"linestyle": "-", "linewidth": 2}),
    "p999": ("p99.9", {"linestyle": ":", "linewidth": 1.2}),
}


def draw(curves: Sequence[Curve], path: Path, caption: str) -> None:
    """Write the picture.

    Args:
        curves: one for each server.
        path: PNG file.
        caption: small, below.

    Raises:
        FileError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for curve, colour in zip(curves, _COLOURS, strict=False):
        _latency(upper, curve, colour)
        _goodput(lower, curve, colour)
    _finish(upper, lower, max(point.offered for curve in curves for point in curve.points))
    figure.supxlabel(caption, fontsize=7, color=FAINT)
    with writing(path):
        figure.savefig(path, dpi=150)


def _series(curve: Curve, name: str) -> NDArray[np.float64]:
    """Values of the points (points,), NaN where there is none."""
    values = (getattr(point, name) for point in curve.points)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _latency(axes: Axes, curve: Curve, colour: str) -> None:
    offered = _series(curve, "offered")
    valid = _series(curve, "valid") > 0
    for name, (title, style) in _LINES.items():
        values = 1e3 * _series(curve, name)
        axes.plot(offered, values, color=colour, label=f"{curve.name}, {title}", **style)
        axes.plot(offered[valid], values[valid], "o", color=colour, markersize=4)
        axes.plot(offered[~valid], values[~valid], "o", color=colour, mfc="white", markersize=4)
    limit = f"{curve.name}, limit"
    axes.axhline(1e3 * curve.limit, color=colour, linewidth=0.8, alpha=0.6, label=limit)
    _mark_knee(axes, curve, colour)


def _goodput(axes: Axes, curve: Curve, colour: str) -> None:
    offered = _series(curve, "offered")
    axes.plot(offered, _series(curve, "goodput"), "o-", color=colour, markersize=4)
    _mark_knee(axes, curve, colour)
    if curve.knee is not None:
        axes.annotate(
            f"knee {curve.knee.rate:.0f}/s",
            (curve.knee.rate, 0.5),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            rotation=90,
            va="center",
            color=colour,
            fontsize=8,
        )


def _mark_knee(axes: Axes, curve: Curve, colour: str) -> None:
    if curve.knee is not None:
        axes.axvline(curve.knee.rate, color=colour, linewidth=0.8, linestyle="-.")


def _finish(upper: Axes, lower: Axes, highest: float) -> None:
    upper.set_yscale("log")
    upper.yaxis.set_major_formatter("{x:g}")
    upper.set_ylabel("latency from the intended time, ms")
    upper.legend(fontsize=7, loc="lower right", ncols=2)
    lower.plot([0, highest], [0, highest], color=FAINT, linewidth=0.8, label="all that is offered")
    lower.set_ylabel("answers within the limit, events/s")
    lower.set_xlabel("offered, events/s")
    lower.set_xlim(left=0)
    lower.set_ylim(bottom=0)
    lower.legend(fontsize=8, loc="upper left")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
