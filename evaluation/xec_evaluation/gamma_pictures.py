"""Pictures of the gamma: resolution curves, distributions of errors, and calibration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from xec.display.colours import FAINT
from xec_evaluation.content import BinRow, Evaluation
from xec_evaluation.drawing import (
    BLUE,
    GREEN,
    LOOKS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Picture,
    grid,
    label_synthetic,
    legend_above,
    new_figure,
)
from xec_evaluation.quantities import AXES, QUANTITIES, Axis, Quantity

CURVES: Final = ("relative_energy", "gamma_time", "u", "v", "w", "opening_angle")
SHAPES: Final = ("relative_energy", "gamma_time", "u", "v", "w", "theta", "phi", "distance")

_QUANTITY: Final = {quantity.name: quantity for quantity in QUANTITIES}
_COLOURS: Final = ("#000000", VERMILION, ORANGE, BLUE, SKY, GREEN, PURPLE, "#8c6d1f")
_LINES: Final = ("-", "-", "-", "--", "--", "--", "-.", "-.")


def gamma_pictures(evaluation: Evaluation) -> Iterator[Picture]:
    """The pictures that the content allows, calibration last."""
    if evaluation.errors:
        yield _distributions(evaluation)
    for name in CURVES:
        picture = _curves(evaluation, _QUANTITY[name])
        if picture is not None:
            yield picture


def calibration_pictures(evaluation: Evaluation) -> Iterator[Picture]:
    """Expected against observed coverage, where there is any."""
    if evaluation.calibration:
        yield _calibration(evaluation)


def _curves(evaluation: Evaluation, quantity: Quantity) -> Picture | None:
    """Resolution against every axis that has at least two bins."""
    rows = [row for row in evaluation.bins if row.quantity == quantity.name]
    axes_of = [axis for axis in AXES if len({r.low for r in rows if r.axis == axis.name}) > 1]
    if not axes_of:
        return None
    columns = min(3, len(axes_of))
    lines = -(-len(axes_of) // columns)
    figure = new_figure(0.7 + 2.1 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for panel, axis in zip(panels, axes_of, strict=False):
        _panel(panel, axis, [row for row in rows if row.axis == axis.name])
    for panel in panels[len(axes_of) :]:
        panel.remove()
    name = _short(quantity)
    measure = f"σ_eff of {name}" if quantity.signed else f"68 % quantile of the {name}"
    for panel in panels[::columns]:
        panel.set_ylabel(_measure(quantity))
    panels[0].set_ylim(0, 1.08 * max(row.width + row.width_error for row in rows))
    legend_above(figure, panels[0], 2)
    label_synthetic(figure, evaluation.synthetic)
    caption = (
        f"{measure} against the true energy, place and direction of the gamma; vertical bars: "
        "bootstrap errors over events, horizontal ones: the bins."
    )
    return Picture(f"resolution-{quantity.name}", figure, caption)


def _short(quantity: Quantity) -> str:
    """The label without what stands behind a comma or in brackets."""
    return quantity.label.partition(",")[0].partition(" (")[0]


def _measure(quantity: Quantity) -> str:
    if quantity.signed:
        return f"σ_eff of {_short(quantity)} ({_unit(quantity.unit)})"
    return f"68 % of the angle ({_unit(quantity.unit)})"


def _unit(unit: str) -> str:
    return {"degrees": "°"}.get(unit, unit)


def _panel(panel: Axes, axis: Axis, rows: list[BinRow]) -> None:
    for method in dict.fromkeys(row.method for row in rows):
        chosen = [row for row in rows if row.method == method]
        look = LOOKS[method]
        centres = np.array([row.centre for row in chosen])
        reach = [
            centres - [row.low for row in chosen],
            np.array([row.high for row in chosen]) - centres,
        ]
        panel.errorbar(
            centres,
            [row.width for row in chosen],
            xerr=reach,
            yerr=[row.width_error for row in chosen],
            fmt=look.marker,
            color=look.colour,
            markersize=4,
            linewidth=1.1,
            label=method,
        )
    # A last bin joined from nearly empty ones would squeeze all others.
    first, last = min(rows, key=lambda row: row.low), max(rows, key=lambda row: row.high)
    panel.set_xlim(
        max(first.low, first.centre - 2 * (first.high - first.centre)),
        min(last.high, last.centre + 2 * (last.centre - last.low)),
    )
    panel.set_xlabel(f"true {axis.label} ({_unit(axis.unit)})")
    grid(panel)


def _distributions(evaluation: Evaluation) -> Picture:
    samples = {sample.quantity: sample for sample in evaluation.errors}
    names = [name for name in SHAPES if name in samples]
    columns = 4
    lines = -(-len(names) // columns)
    figure = new_figure(0.7 + 1.9 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        sample, quantity = samples[name], _QUANTITY[name]
        for method, shares in sample.shares.items():
            look = LOOKS[method]
            panel.stairs(
                100 * np.array(shares),
                sample.edges,
                color=look.colour,
                linestyle=look.line,
                linewidth=1.3,
                label=method,
            )
        label = "distance" if name == "distance" else f"Δ{_short(quantity)}"
        panel.set_xlabel(f"{label} ({_unit(quantity.unit)})")
        grid(panel)
    for panel in panels[len(names) :]:
        panel.remove()
    for panel in panels[::columns]:
        panel.set_ylabel("events per bin (%)")
    legend_above(figure, panels[0], 2)
    label_synthetic(figure, evaluation.synthetic)
    caption = "Errors of the gamma, estimate minus truth, and the distance between the positions."
    return Picture("errors", figure, caption)


def _calibration(evaluation: Evaluation) -> Picture:
    figure = new_figure(3.7)
    left, right = figure.subplots(1, 2)
    left.plot([0, 100], [0, 100], color=FAINT, linewidth=0.8)
    right.axhline(0, color=FAINT, linewidth=0.8)
    for number, curve in enumerate(evaluation.calibration):
        style = {"color": _COLOURS[number], "linestyle": _LINES[number], "linewidth": 1.3}
        expected, observed = 100 * np.array(curve.expected), 100 * np.array(curve.observed)
        label = curve.quantity
        if label in _QUANTITY:
            label = _short(_QUANTITY[label])
        left.plot(expected, observed, label=label, **style)
        right.plot(expected, observed - expected, **style)
    left.set_ylabel("observed coverage (%)")
    right.set_ylabel("observed − expected (points)")
    for panel in (left, right):
        panel.set_xlabel("expected coverage (%)")
        panel.set_xlim(0, 100)
        grid(panel)
    left.set_ylim(0, 100)
    legend_above(figure, left, 4)
    label_synthetic(figure, evaluation.synthetic)
    caption = (
        "How many values lie inside the normal interval that should hold the expected share of "
        "them. Above the line σ is too large, below it too small."
    )
    return Picture("calibration", figure, caption)
