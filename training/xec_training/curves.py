"""A picture of a training: its loss and rate, and the errors on held-out events, by event."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xec.io.output import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE: Final = "curves.png"
PREFIX: Final = "validation/rmse/"

Series = Mapping[str, Sequence[tuple[float, float]]]


def read_metrics(logs: Path) -> Series:
    """Every metric of the CSV logs as (step, value), over all sessions of a training.

    Args:
        logs: folder with `version_*/metrics.csv`. A later session replaces what an earlier one
            logged of the same steps, which it may have made again.
    """
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for path in sorted(logs.glob("version_*/metrics.csv"), key=_version):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                step = float(row.pop("step"))
                for name, text in row.items():
                    if text and math.isfinite(value := float(text)):
                        found[name][step] = value
    return {name: sorted(values.items()) for name, values in found.items()}


def _version(path: Path) -> int:
    return int(path.parent.name.removeprefix("version_"))


def draw(metrics: Series, title: str) -> Figure:
    """The loss and the learning rate; each task's RMSE relative to its first validation."""
    figure = Figure(figsize=(11.0, 4.0), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium")
    left, right = figure.subplots(1, 2)
    _lines(left, {"loss": metrics.get("loss", ())})
    left.set(xlabel="optimiser step", ylabel="loss")
    rate = left.twinx()
    rate.plot(*zip(*metrics.get("lr", ()), strict=True), color="0.6", linewidth=1.0)
    rate.set_ylabel("learning rate", color="0.4")
    rate.set_ylim(bottom=0.0)
    tasks = {n.removeprefix(PREFIX): v for n, v in metrics.items() if n.startswith(PREFIX)}
    _lines(right, {name: _relative(values) for name, values in tasks.items()})
    right.set(xlabel="optimiser step", ylabel="RMSE on held-out events / first")
    if right.lines:
        right.legend(fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _lines(axes: Axes, series: Series) -> None:
    markers = ("o", "s", "^", "v", "D", "x", "+", "*", "<", ">")
    for number, (name, values) in enumerate(series.items()):
        if values:
            few = markers[number % len(markers)] if len(values) < 40 else None
            axes.plot(*zip(*values, strict=True), label=name, marker=few, markersize=4)
    axes.grid(alpha=0.3)


def _relative(values: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Values over the first of them that is not zero."""
    values = list(values)
    first = next((value for _, value in values if value), 1.0)
    return [(step, value / first) for step, value in values]


def save_curves(out: Path, title: str) -> Path:
    """Draw the training in `out` and leave `curves.png` there."""
    path = out / PICTURE
    figure = draw(read_metrics(out / "logs"), title)
    with replacing(path) as file:
        figure.savefig(file, format="png")
    return path
