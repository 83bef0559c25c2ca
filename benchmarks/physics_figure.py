"""The picture of docs/physics.md, drawn from what physics.py and optimum.py measured.

Run: python benchmarks/physics_figure.py [--physics FILE] [--optimum FILE] [--out FILE.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scenarios import SCENARIOS

RESULTS: Final = Path("benchmarks/results")
METHODS: Final = {
    "this network": ("#0072b2", "o"),
    "local fit": ("#009e73", "s"),
    "solid angle": ("#e69f00", "^"),
    "neighbour average": ("#999999", "v"),
}
QUANTITIES: Final = {
    "energy": ("energy", 1 / 0.528, "%"),
    "gamma_time": ("time", 1e3 / 10, "10 ps"),
    "u": ("u", 10.0, "mm"),
    "v": ("v", 10.0, "mm"),
    "w": ("w", 10.0, "mm"),
}
OPTIMUM: Final = {"signal": "overall", "front": "front"}


def errors(axes: Axes, physics: dict[str, Any], optimum: dict[str, Any]) -> None:
    """Mean error on dead sensors, by scenario and method."""
    names = [n for n, s in physics["scenarios"].items() if s["filling"]["methods"]]
    for method, (colour, marker) in METHODS.items():
        found = []
        for row, name in enumerate(names):
            part = physics["scenarios"][name]
            where = part["filling"]["methods"].get(method) or part["first"].get(method)
            if where:
                found.append((where["mae"][0], row))
        axes.plot(*zip(*found, strict=True), marker, color=colour, label=method)
    best = [
        (optimum[part]["filling"]["Laplace"]["error"]["mean_absolute"]["value"], names.index(name))
        for name, part in OPTIMUM.items()
        if name in names
    ]
    axes.plot(
        *zip(*best, strict=True), "|", color="black", markersize=16, label="optimum (Laplace)"
    )
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), [SCENARIOS[name].title for name in names])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set_xlabel("mean |error| on dead sensors, photons")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.3, 1.12), ncols=3)


def by_depth(axes: Axes, signal: dict[str, Any], key: str) -> None:
    """A figure of each quantity in bins of depth."""
    edges = [bin_["depth"] for bin_ in signal["energy"]["by_depth"]]
    labels = [f"{low:g}-{high:g}" for low, high in edges]
    for name, (title, unit, of) in QUANTITIES.items():
        bins = signal[name]["by_depth"]
        if key == "sigma_eff":
            axes.plot(labels, [unit * b[key] for b in bins], "o-", label=f"{title}, {of}")
        else:
            axes.plot(labels, [100 * b["coverage"][0] for b in bins], "o-", label=title)
    axes.set_xlabel("depth w of the conversion, cm")
    axes.grid(alpha=0.3)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--physics", type=Path, default=RESULTS / "physics.json")
    parser.add_argument("--optimum", type=Path, default=RESULTS / "optimum.json")
    parser.add_argument("--out", type=Path, default=Path("docs/images/physics.png"))
    arguments = parser.parse_args()
    physics = json.loads(arguments.physics.read_text())
    optimum = json.loads(arguments.optimum.read_text())
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    errors(figure.add_subplot(grid[:, 0]), physics, optimum)
    signal = physics["scenarios"]["signal"]["gamma"]
    upper, lower = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
    by_depth(upper, signal, "sigma_eff")
    upper.set_ylabel("σ_eff")
    upper.set_ylim(bottom=0)
    upper.legend(fontsize=7, ncols=2)
    by_depth(lower, signal, "coverage")
    lower.axhspan(68.27 - 3, 68.27 + 3, color="black", alpha=0.1)
    lower.axhline(68.27, color="black", linewidth=0.8)
    lower.set_ylabel("within ±1 σ, %")
    figure.suptitle("The shipped network on fresh simulated (synthetic) events")
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
