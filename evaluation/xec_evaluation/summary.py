"""What `xec evaluate` prints at the end: the main figures, and where the report is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xec_evaluation.content import Evaluation
from xec_evaluation.quantities import QUANTITIES
from xec_evaluation.report import HTML
from xec_evaluation.tables import ABSENT, number, with_error

PIPED_WIDTH: Final = 110
"""Columns of a table that goes to a file or a pipe."""


def print_summary(evaluation: Evaluation, folder: Path) -> None:
    """Print the errors of the filled sensors, the resolutions and the place of the report."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPED_WIDTH)
    kind = "synthetic events" if evaluation.synthetic else "events"
    count = f"{evaluation.events_used} {kind}, {evaluation.mode}"
    console.print(_filling(evaluation, f"Filled sensors, {count}: errors in photons"))
    if evaluation.resolution:
        console.print(_gamma(evaluation, f"Gamma, {count}: σ_eff, or 68 % of a distance"))
    for note in evaluation.notes[1:]:
        console.print(Text(note))
    console.print(Text(f"report: {folder / HTML}"), soft_wrap=True)


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    # Text, not markup: brackets would be taken for styles.
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in texts:
        table.add_column(Text(heading), no_wrap=True)
    for heading in numbers:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    return table


def _filling(evaluation: Evaluation, title: str) -> Table:
    table = _table(title, ("method",), ("MAE", "RMSE", "bias", "68 %", "RMSE / noise"))
    for row in evaluation.filling:
        if row.grouping == "all":
            table.add_row(
                row.method,
                with_error(row.mae, row.mae_error),
                with_error(row.rmse, row.rmse_error),
                with_error(row.bias, row.bias_error),
                number(row.within68),
                number(row.rmse_over_noise),
            )
    return table


def _gamma(evaluation: Evaluation, title: str) -> Table:
    """One row per quantity, the methods side by side."""
    widths = {
        (row.quantity, row.method): with_error(row.sigma_eff, row.sigma_eff_error)
        for row in evaluation.resolution
    }
    widths |= {
        (row.quantity, row.method): with_error(row.within68, row.within68_error)
        for row in evaluation.distances
    }
    methods = list(dict.fromkeys(method for _, method in widths))
    table = _table(title, ("quantity", "unit"), methods)
    for quantity in QUANTITIES:
        cells = [widths.get((quantity.name, method), ABSENT) for method in methods]
        table.add_row(quantity.label, quantity.unit, *cells)
    return table
