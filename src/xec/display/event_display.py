"""The picture of an event: as measured, reconstructed, and what was recovered.

Only the object interface of matplotlib is used: no global state, safe in threads and servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from xec.display import colours, content, panel
from xec.display.content import EventPicture
from xec.event import BoolArray, FloatArray, Reconstruction

# Inches. Everything is placed by hand: the shape of the detector is fixed.
_PANEL: Final = (5.43, 5.18)
_BETWEEN: Final = 0.45
_LEFT: Final = 0.5
_BELOW: Final = 0.95
_TITLE: Final = 0.75  # of title and headings
_LINE: Final = 0.21
_BAR: Final = (3.3, 0.11)
_BAR_BOTTOM: Final = 0.68

BRIGHTEST: Final = 6  # rows of the table of recovered sensors


@dataclass(frozen=True, slots=True)
class Scale:
    """How values become colours, and what they are."""

    norm: Normalize
    colormap: Colormap
    label: str


def figure_for(picture: EventPicture) -> Figure:
    """An empty figure of the size that suits the picture."""
    panels = 1 if picture.reconstruction is None else 3
    width = _LEFT + panels * (_PANEL[0] + _BETWEEN) - 0.25
    above = _TITLE + _LINE * len(content.gamma_lines(picture))
    return Figure(figsize=(width, _BELOW + _PANEL[1] + above), facecolor="white")


def draw_event(figure: Figure, picture: EventPicture) -> None:
    """Draw an event: one panel as measured or, with a reconstruction, three.

    The second panel shows the recovered sensors filled and framed. The third shows only them:
    recovered minus reference where the simulation tells what they would have read, or else the
    recovered counts.

    Args:
        figure: empty, from `figure_for`.
        picture: what to show.
    """
    _head(figure, picture)
    reconstruction = picture.reconstruction
    if reconstruction is None:
        _draw_measured(figure, picture, _counts(picture.event.npho[picture.measured]))
        return
    scale = _counts(_after(picture, reconstruction))
    _draw_measured(figure, picture, scale)
    _draw_reconstructed(figure, picture, reconstruction, scale)
    _draw_recovered(figure, picture, reconstruction, scale)
    _write(figure, content.origin_line(reconstruction), up=0.12, size=7, colour=colours.FAINT)


def _counts(npho: FloatArray) -> Scale:
    return Scale(colours.npho_norm(npho), colours.npho_map(), "photons at the sensor")


def _differences(difference: FloatArray) -> Scale:
    norm = colours.difference_norm(difference)
    return Scale(norm, colours.difference_map(), "recovered − reference (photons)")


def _after(picture: EventPicture, reconstruction: Reconstruction) -> FloatArray:
    """Counts with recovered sensors filled, (4760,)."""
    recovered = content.on_all_sensors(reconstruction.recovered, reconstruction.recovered.npho)
    return np.where(picture.measured, picture.event.npho, recovered)


def _place(figure: Figure, left: float, bottom: float, size: tuple[float, float]) -> Axes:
    """Axes at a place given in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))


def _draw_sensors(
    figure: Figure,
    column: int,
    values: FloatArray,
    shown: BoolArray,
    scale: Scale,
    *,
    heading: str,
    hidden: str,
) -> Axes:
    """A panel with `values` (4760,) where `shown`, the colour `hidden` elsewhere, and its bar."""
    left = _LEFT + column * (_PANEL[0] + _BETWEEN)
    axes = _place(figure, left, _BELOW, _PANEL)
    panel.prepare(axes, heading, colours.LIGHT if hidden == colours.LIVE else colours.DARK)
    rgba = np.tile(np.array(to_rgba(hidden)), (len(values), 1))
    rgba[shown] = colours.colours_of(values[shown], scale.norm, scale.colormap)
    panel.draw_sensors(axes, rgba)
    place = _place(figure, left + (_PANEL[0] - _BAR[0]) / 2, _BAR_BOTTOM, _BAR)
    _bar(figure, place, scale)
    return axes


def _bar(figure: Figure, place: Axes, scale: Scale) -> None:
    mappable = ScalarMappable(scale.norm, scale.colormap)
    bar = figure.colorbar(mappable, cax=place, orientation="horizontal")
    bar.set_label(scale.label, fontsize=8, color=colours.INK, labelpad=1)
    place.tick_params(labelsize=7, length=3, pad=1.5, colors=colours.INK)
    place.tick_params(which="minor", length=1.5)
    place.xaxis.set_minor_formatter(NullFormatter())


def _draw_measured(figure: Figure, picture: EventPicture, scale: Scale) -> None:
    measured = picture.measured
    axes = _draw_sensors(
        figure,
        0,
        picture.event.npho,
        measured,
        scale,
        heading="as measured",
        hidden=colours.DEAD,
    )
    _legend(axes, [_swatch(colours.DEAD, f"dead or invalid ({(~measured).sum()})")])


def _draw_reconstructed(
    figure: Figure, picture: EventPicture, reconstruction: Reconstruction, scale: Scale
) -> None:
    recovered = content.filled(reconstruction.recovered)
    shown = picture.measured | recovered
    values = _after(picture, reconstruction)
    axes = _draw_sensors(
        figure, 1, values, shown, scale, heading="reconstructed", hidden=colours.DEAD
    )
    panel.frame_sensors(axes, recovered, colours.DEAD, 0.45)
    handles: list[Artist] = [_swatch("none", f"recovered ({recovered.sum()})")]
    if not shown.all():
        handles.append(_swatch(colours.DEAD, f"not recovered ({(~shown).sum()})"))
    if picture.truth is not None:
        panel.mark_truth(axes, picture.truth.uvw[0])
        handles.append(_mark("o", "simulated conversion"))
    panel.mark_conversion(axes, reconstruction.uvw.mean, reconstruction.uvw.sigma)
    handles.append(_mark("+", "reconstructed conversion ± σ"))
    _legend(axes, handles)


def _draw_recovered(
    figure: Figure, picture: EventPicture, reconstruction: Reconstruction, counts: Scale
) -> None:
    recovered = content.filled(reconstruction.recovered)
    values = content.on_all_sensors(reconstruction.recovered, reconstruction.recovered.npho)
    scale, heading = counts, "recovered sensors only"
    if picture.reference is not None:
        values = values - picture.reference
        scale = _differences(values[recovered])
        heading = "recovered sensors, against what they would have read"
    axes = _draw_sensors(figure, 2, values, recovered, scale, heading=heading, hidden=colours.LIVE)
    panel.frame_sensors(axes, recovered, colours.FAINT, 0.3)
    _note(axes, content.brightest_lines(picture, BRIGHTEST), top=True, family="monospace", size=6.5)
    _note(axes, content.comparison_lines(picture), top=False, family="sans-serif", size=8)


def _swatch(colour: str, label: str) -> Patch:
    return Patch(facecolor=colour, edgecolor=colours.DEAD, label=label)


def _mark(marker: str, label: str) -> Line2D:
    line = Line2D([], [], marker=marker, markersize=7, linestyle="none", label=label)
    line.set(markerfacecolor="none", markeredgecolor=colours.INK)
    return line


def _legend(axes: Axes, handles: Sequence[Artist]) -> None:
    legend = axes.legend(handles=handles, loc="lower right", fontsize=8, frameon=False)
    legend.set_alignment("left")
    for text in legend.get_texts():
        text.set_color(colours.INK)


def _note(axes: Axes, lines: Sequence[str], *, top: bool, family: str, size: float) -> None:
    """Text in the free space above or below the outer face."""
    axes.text(
        0.995,
        1.0 if top else 0.02,
        "\n".join(lines),
        transform=axes.transAxes,
        ha="right",
        va="top" if top else "bottom",
        family=family,
        fontsize=size,
        color=colours.INK,
        linespacing=1.25,
    )


def _write(
    figure: Figure, text: str, *, up: float, size: float, colour: str, weight: str = "normal"
) -> None:
    """A line of text at the left, `up` inches above the lower end of the figure."""
    width, height = figure.get_size_inches()
    figure.text(0.2 / width, up / height, text, fontsize=size, color=colour, fontweight=weight)


def _head(figure: Figure, picture: EventPicture) -> None:
    """Title, and a line each for the gamma as reconstructed and simulated."""
    top = float(figure.get_size_inches()[1]) - 0.32
    _write(figure, content.title(picture), up=top, size=14, colour=colours.INK, weight="bold")
    for k, line in enumerate(content.gamma_lines(picture)):
        _write(figure, line, up=top - 0.27 - _LINE * k, size=10, colour=colours.INK)
