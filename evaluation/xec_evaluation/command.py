"""`xec evaluate`: how good a model is on events of ROOT files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from xec.cli import Command


class ModeName(StrEnum):
    """Names of `modes.Mode`, which is loaded only when the command runs."""

    PSEUDO = "pseudo"
    ARTIFICIAL = "artificial"
    FRONT = "front"


class PatternName(StrEnum):
    """Names of `patterns.Pattern`."""

    SINGLES = "singles"
    BOARDS = "boards"
    ROW = "row"
    FIVE_PERCENT = "five-percent"
    TYPICAL = "typical"


class RedrawName(StrEnum):
    """Names of `patterns.Redraw`."""

    RUN = "run"
    EVENT = "event"
    NEVER = "never"


def evaluate(
    *,
    data: Annotated[
        list[str],
        typer.Option(metavar="FILE.root", help="Events; may be a pattern, and given repeatedly."),
    ],
    mode: Annotated[
        ModeName,
        typer.Option(
            help="What is hidden: a dead list (pseudo), some live sensors of each event "
            "(artificial), the sensor in front of the conversion (front)."
        ),
    ],
    report: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the report.")],
    model: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the model.")] = Path(
        "model_repository/reconstruct"
    ),
    dead_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Dead sensors, one id per line.")
    ] = None,
    dead_pattern: Annotated[
        PatternName | None,
        typer.Option(
            help="Or how dead lists are drawn; by default the files' own lists count where their "
            "readings are known, or else typical ones are drawn.",
            show_default=False,
        ),
    ] = None,
    redraw: Annotated[
        RedrawName, typer.Option(help="When a dead list is drawn anew: for each run or event.")
    ] = RedrawName.RUN,
    events: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Read at most N events.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Run the conventional methods on the same events.")
    ] = True,
    local_fit: Annotated[
        bool, typer.Option(help="The local fit of dead sensors, by far the slowest, among them.")
    ] = True,
    survey: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table of the sensors' places, if not the ideal ones."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of masks, samples and errors.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Measure a model on events, beside the conventional methods.

    Writes report.html, which needs nothing beside itself, and report.json with all figures.

    Example: xec evaluate --data signal.root --mode pseudo --dead-pattern boards --report boards
    """
    # Heavy modules only now: this file is loaded for every `xec` command.
    from xec_evaluation.evaluate import Request, evaluate  # noqa: PLC0415
    from xec_evaluation.modes import Mode  # noqa: PLC0415
    from xec_evaluation.patterns import Pattern, Redraw  # noqa: PLC0415
    from xec_evaluation.progress import event_progress  # noqa: PLC0415
    from xec_evaluation.report import report_folder, write_report  # noqa: PLC0415
    from xec_evaluation.summary import print_summary  # noqa: PLC0415

    request = Request(
        model=model,
        data=tuple(data),
        mode=Mode(mode.value),
        dead_list=dead_list,
        pattern=None if dead_pattern is None else Pattern(dead_pattern.value),
        redraw=Redraw(redraw.value),
        events=events,
        baselines=baselines,
        local_fit=local_fit,
        survey=survey,
        seed=seed,
    )
    with report_folder(report):
        with event_progress(quiet) as progress:
            found = evaluate(request, progress)
        write_report(report, found)
    if not quiet:
        print_summary(found, report)


COMMAND = Command(
    run=evaluate,
    needs=("onnxruntime", "uproot", "awkward", "matplotlib", "iminuit"),
    extra="evaluate",
)
