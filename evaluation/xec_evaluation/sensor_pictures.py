"""Pictures of the filled sensors: errors by light and by dead neighbours, residuals, faces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes

from xec.display.colours import FAINT, INK
from xec_evaluation.content import Evaluation, FillingRow, SensorSample
from xec_evaluation.drawing import (
    LOOKS,
    Picture,
    grid,
    label_synthetic,
    legend_above,
    logarithmic,
    new_figure,
)
from xec_evaluation.filling import FACES, LIGHT_GROUPS, NEIGHBOUR_GROUPS
from xec_evaluation.tables import LEAST_SENSORS


def sensor_pictures(evaluation: Evaluation) -> Iterator[Picture]:
    """The pictures that the content allows."""
    if _drawable(evaluation, "light"):
        yield _curves(evaluation)
    if evaluation.sensors is not None:
        yield _residuals(evaluation, evaluation.sensors)


def _methods(evaluation: Evaluation) -> list[str]:
    return [row.method for row in evaluation.filling if row.grouping == "all"]


def _drawable(evaluation: Evaluation, grouping: str) -> list[FillingRow]:
    return [
        row
        for row in evaluation.filling
        if row.grouping == grouping and row.sensors >= LEAST_SENSORS
    ]


def _curves(evaluation: Evaluation) -> Picture:
    figure = new_figure(3.6)
    beside = len({row.group for row in _drawable(evaluation, "dead neighbours")}) > 1
    ratios = (3, 2) if beside else (1,)
    panels = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)
    left, *right = panels[0]
    _by_light(left, evaluation)
    caption = (
        "RMS error of the filled sensors against the reading; black bars: the readings' own noise."
    )
    if beside:
        _by_neighbours(right[0], evaluation)
        caption += (
            " Right: mean |error| on the inner face against how many of the eight sensors around "
            "are dead."
        )
    legend_above(figure, left, len(_methods(evaluation)))
    label_synthetic(figure, evaluation.synthetic)
    return Picture("filling", figure, caption)


def _curve(
    axes: Axes, rows: list[FillingRow], groups: tuple[str, ...], method: str, figure: str
) -> None:
    rows = [row for row in rows if row.method == method]
    look = LOOKS[method]
    axes.plot(
        [groups.index(row.group) for row in rows],
        [getattr(row, figure) for row in rows],
        color=look.colour,
        marker=look.marker,
        linestyle=look.line,
        markersize=5,
        linewidth=1.3,
        label=method,
    )


def _by_light(axes: Axes, evaluation: Evaluation) -> None:
    rows = _drawable(evaluation, "light")
    for method in _methods(evaluation):
        _curve(axes, rows, LIGHT_GROUPS, method, "rmse")
    for row in rows:
        place = LIGHT_GROUPS.index(row.group)
        axes.plot([place - 0.3, place + 0.3], [row.noise] * 2, color=INK, linewidth=1.6)
    logarithmic(axes)
    axes.set_xlabel("reading of the masked sensor (photons)")
    axes.set_ylabel("RMS error (photons)")
    _groups(axes, LIGHT_GROUPS, {row.group for row in rows})
    grid(axes)


def _by_neighbours(axes: Axes, evaluation: Evaluation) -> None:
    rows = _drawable(evaluation, "dead neighbours")
    for method in _methods(evaluation):
        _curve(axes, rows, NEIGHBOUR_GROUPS, method, "mae")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("dead of the eight around, inner face")
    axes.set_ylabel("mean |error| (photons)")
    _groups(axes, NEIGHBOUR_GROUPS, {row.group for row in rows})
    grid(axes)


def _groups(axes: Axes, groups: tuple[str, ...], used: set[str]) -> None:
    places = [place for place, group in enumerate(groups) if group in used]
    if places:
        axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    axes.set_xticks(places, [groups[place] for place in places])
    if max(len(group) for group in groups) > 5:
        axes.tick_params(axis="x", labelrotation=35)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")


def _residuals(evaluation: Evaluation, sample: SensorSample) -> Picture:
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    _distribution(left, sample)
    _faces(right, sample)
    legend_above(figure, left, len(sample.shares) + 1)
    label_synthetic(figure, evaluation.synthetic)
    caption = (
        "Filled minus read, in units of the reading's own noise, for sensors of at least 100 "
        "photons. Left: distribution; a method without error of its own would follow the normal "
        "one. Right: per face the median, 68 % (thick) and 95 % (thin) of the sensors."
    )
    return Picture("residuals", figure, caption)


def _distribution(axes: Axes, sample: SensorSample) -> None:
    edges = np.array(sample.edges)
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    for method, shares in sample.shares.items():
        density = np.array(shares) / width
        density[density == 0] = np.nan
        look = LOOKS[method]
        axes.plot(
            centres,
            density,
            color=look.colour,
            linestyle=look.line,
            linewidth=1.4,
            drawstyle="steps-mid",
            label=method,
        )
    fine = np.linspace(edges[0], edges[-1], 200)
    normal = np.exp(-(fine**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(fine, normal, color=FAINT, linewidth=1, linestyle=(0, (1, 1)), label="normal")
    logarithmic(axes)
    axes.set_ylim(bottom=2e-4)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("residual / noise of the reading")
    axes.set_ylabel("density")
    grid(axes)


def _faces(axes: Axes, sample: SensorSample) -> None:
    present = [face for face in FACES if any(face in faces for faces in sample.faces.values())]
    count = len(sample.faces)
    for number, (method, faces) in enumerate(sample.faces.items()):
        look = LOOKS[method]
        for place, face in enumerate(present):
            if face not in faces:
                continue
            x = place + (number - (count - 1) / 2) * 0.7 / count
            lowest, low, median, high, highest = faces[face]
            axes.plot([x, x], [lowest, highest], color=look.colour, linewidth=1)
            axes.plot([x, x], [low, high], color=look.colour, linewidth=4, alpha=0.55)
            axes.plot([x], [median], look.marker, color=look.colour, markersize=4.5)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_xticks(range(len(present)), present)
    axes.set_xlim(-0.6, max(len(present), 3) - 0.4)
    axes.set_ylabel("residual / noise of the reading")
    grid(axes)
