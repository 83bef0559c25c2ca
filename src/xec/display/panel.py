"""One unfolded detector on a pair of axes: sensors, faces, scales and marks."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from xec.detector.channels import Face
from xec.display.colours import DARK, FAINT, INK, Backdrop
from xec.display.unfold import inner_point, unfolded
from xec.event import BoolArray, FloatArray

MARGIN: Final = 9.0  # cm around the detector, for the scales

_OVER_SENSORS: Final = (withStroke(linewidth=1.6, foreground="black"),)
_SMALL: Final = 7


def draw_sensors(axes: Axes, facecolours: NDArray[np.float64]) -> PolyCollection:
    """All 4760 sensors, in the order of the channels, with RGBA colours (4760, 4)."""
    # Edges of the same colour close the hairlines that antialiasing leaves between neighbours.
    sensors = PolyCollection(
        unfolded().polygons, facecolors=facecolours, edgecolors=facecolours, linewidths=0.15
    )
    sensors.set_gid("sensors")
    axes.add_collection(sensors, autolim=False)
    return sensors


def frame_sensors(axes: Axes, chosen: BoolArray, colour: str, width: float) -> PolyCollection:
    """Frames around the sensors of `chosen`, (4760,); `width` in points."""
    polygons = [unfolded().polygons[channel] for channel in np.flatnonzero(chosen)]
    frames = PolyCollection(polygons, facecolors="none", edgecolors=colour, linewidths=width)
    frames.set_gid("frames")
    axes.add_collection(frames, autolim=False)
    return frames


def _face_names(axes: Axes, backdrop: Backdrop) -> None:
    style: dict[str, Any] = {"fontsize": _SMALL + 1, "color": INK}
    for face in (Face.DS, Face.US, Face.OUTER):
        left, right, _, upper = unfolded().extent(face)
        axes.text((left + right) / 2, upper + 2, face.value, ha="center", va="bottom", **style)
    for face in (Face.TOP, Face.BOTTOM):
        left, _, lower, upper = unfolded().extent(face)
        axes.text(left - 2, (lower + upper) / 2, face.value, ha="right", va="center", **style)
    left, _, _, upper = unfolded().extent(Face.INNER)
    text = axes.text(left + 2, upper - 2, "inner", ha="left", va="top", fontsize=_SMALL + 1)
    text.set(color=backdrop.text, path_effects=_OVER_SENSORS if backdrop is DARK else ())


def _scale(axes: Axes, places: list[float], labels: list[str], below: float, name: str) -> None:
    """Ticks with numbers under the height `below`, and the name of the coordinate."""
    style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": _SMALL - 1, "color": FAINT}
    for place, label in zip(places, labels, strict=True):
        axes.plot([place, place], [below, below - 1.5], color=FAINT, linewidth=0.6)
        axes.text(place, below - 2.5, label, **style)
    axes.text(float(np.mean(places)), below - 8.5, name, **style)


def _signed(value: int) -> str:
    return str(value).replace("-", "\N{MINUS SIGN}")


def _scales(axes: Axes) -> None:
    picture = unfolded()
    _, _, lower, _ = picture.extent(Face.BOTTOM)
    along_u = [30, 0, -30]
    _scale(axes, [-u for u in along_u], [_signed(u) for u in along_u], lower - 1, "u = z (cm)")
    left, right, lower, _ = picture.extent(Face.OUTER)
    along_z = [-40, 0, 40]
    middle = (left + right) / 2
    _scale(axes, [middle + z for z in along_z], [_signed(z) for z in along_z], lower - 1, "z (cm)")
    for face, sign in ((Face.DS, -1), (Face.US, 1)):
        left, right, lower, _ = picture.extent(face)
        start = right if sign < 0 else left
        places = [start + sign * depth for depth in (20.0, 40.0)]
        _scale(axes, places, ["20", "40"], lower - 1, "depth (cm)")


def _azimuth_axis(axes: Axes) -> None:
    axes.set_yticks([-60, -30, 0, 30, 60])
    axes.tick_params(axis="y", labelsize=_SMALL - 1, colors=FAINT, length=2, pad=1)
    axes.set_ylabel("v (cm)", fontsize=_SMALL, color=FAINT, labelpad=1)
    axes.set_xticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def prepare(axes: Axes, heading: str, backdrop: Backdrop) -> None:
    """Empty faces with their names and scales, under a heading."""
    picture = unfolded()
    grounds = PolyCollection(
        list(picture.outlines.values()), facecolors=backdrop.ground, linewidths=0
    )
    axes.add_collection(grounds, autolim=False)
    corners = np.concatenate(list(picture.outlines.values()))
    (left, lower), (right, upper) = corners.min(axis=0), corners.max(axis=0)
    axes.set_xlim(left - 2, right + 2)
    axes.set_ylim(lower - MARGIN - 4, upper + 2)
    axes.set_aspect("equal")
    axes.set_title(heading, fontsize=11, color=INK, pad=4, loc="left")
    _face_names(axes, backdrop)
    _scales(axes)
    _azimuth_axis(axes)


def mark_conversion(axes: Axes, uvw: FloatArray, sigma: FloatArray) -> None:
    """The reconstructed conversion point: a cross whose arms are σ of u and v."""
    u, v = inner_point(float(uvw[0]), float(uvw[1]))
    bars = axes.errorbar(
        [u], [v], xerr=[float(sigma[0])], yerr=[float(sigma[1])], fmt="+", color="white"
    )
    marker, _, lines = bars.lines
    marker.set(markersize=9, markeredgewidth=1.1, path_effects=_OVER_SENSORS)
    for line in lines:
        line.set(linewidth=1.1, path_effects=_OVER_SENSORS)


def mark_truth(axes: Axes, uvw: FloatArray) -> None:
    """The simulated conversion point: a ring."""
    u, v = inner_point(float(uvw[0]), float(uvw[1]))
    (ring,) = axes.plot([u], [v], "o", markersize=9, markerfacecolor="none")
    ring.set(markeredgecolor="white", markeredgewidth=1.0, path_effects=_OVER_SENSORS)
