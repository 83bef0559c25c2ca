"""What all pictures of the report share: sizes, colours, marks, and how they become text.

Only the object interface of matplotlib is used. Colours are those of M. Okabe and K. Ito, which
colour-blind readers tell apart; each method has a mark of its own as well.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from xec.display.colours import FAINT, INK
from xec_evaluation.baselines import AVERAGE, LOCAL_FIT, SOLID_ANGLE
from xec_evaluation.content import CONVENTIONAL, NETWORK

WIDTH: Final = 7.4  # inches

FEW_DECADES: Final = 200
"""Ratio of the ends of a logarithmic axis up to which 2 and 5 are labelled as well."""

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
VERMILION: Final = "#D55E00"
SKY: Final = "#56B4E9"

STYLE: Final[Any] = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "figure.facecolor": "white",
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "svg.hashsalt": "xec-evaluation",
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True, slots=True)
class Look:
    """How a method is drawn."""

    colour: str
    marker: str
    line: str


LOOKS: Final = {
    NETWORK: Look(BLUE, "o", "-"),
    AVERAGE: Look(ORANGE, "s", ":"),
    SOLID_ANGLE: Look(GREEN, "^", "--"),
    LOCAL_FIT: Look(PURPLE, "D", "-."),
    CONVENTIONAL: Look(VERMILION, "s", "--"),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure with what it shows, for a caption and for those who cannot see it."""

    name: str
    figure: Figure
    caption: str


def new_figure(height: float) -> Figure:
    """An empty figure of the report's width."""
    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06)
    return Figure(figsize=(WIDTH, height), layout=layout)


def grid(axes: Axes) -> None:
    """Faint lines behind the data."""
    axes.grid(visible=True, zorder=0)
    axes.set_axisbelow(True)


def logarithmic(axes: Axes) -> None:
    """A logarithmic ordinate with plain numbers; call it when the data is drawn."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < FEW_DECADES * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def label_synthetic(figure: Figure, synthetic: bool) -> None:
    """Say in the picture itself that its events were simulated."""
    if synthetic:
        figure.supxlabel("synthetic events", x=0.995, ha="right", fontsize=8, color=FAINT)


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend for all panels, over them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def as_svg(picture: Picture) -> str:
    """The picture as a data address: drawn text needs no font, and names stay apart."""
    content = io.BytesIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None}
    with mpl.rc_context(STYLE):
        picture.figure.savefig(content, format="svg", metadata=nothing)
    return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()
