"""`xec train calibrate`: held-out events for a checkpoint that is there, progress and a table."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from xec.detector.geometry import Geometry, load_survey, parametric
from xec.io.output import writing
from xec.models.checkpoint import read_checkpoint
from xec_training.calibrate import Calibration, calibrate_checkpoint
from xec_training.calibration_report import table_of
from xec_training.data.open import open_source
from xec_training.held_out import LARGEST_BATCH, held_out_of
from xec_training.processes import launched

FEW_EVENTS = 500  # of which a fifth is left to judge by


def run(
    folder: Path,
    data: list[str],
    events: int,
    seed: int,
    device: str,
    survey: Path | None,
    console: Console,
) -> Calibration:
    """Calibrate a checkpoint in place, and say how well it holds.

    Args:
        folder: of a training, of stage inpaint or regress.
        data: ``sim:``, or names of event files, all of whose events are held out.
        events: how many to use.
        seed: of simulated events and masks.
        device: cpu or cuda.
        survey: table of the sensors' positions; None for the ideal detector.
        console: for progress and table.

    Raises:
        UsageError: data without end or events, or a device that is not there.
        ModelError, FileError: a checkpoint or files that cannot be used.
    """
    geometry: Geometry = parametric() if survey is None else load_survey(survey)
    _, checkpoint = read_checkpoint(folder, geometry)
    with launched(device, []) as fabric:
        source = open_source(
            data,
            geometry=geometry,
            device=fabric.device,
            seed=seed,
            batch_size=LARGEST_BATCH,
            part="validation",
            validation_share=1.0,
            require_truth=checkpoint.stage == "regress",
        )
        total = held_out_of(source, geometry, fabric.device, events, seed).expected
        with closing(source), writing(folder), bar(console) as progress:
            task = progress.add_task("calibrating", total=total)
            found = calibrate_checkpoint(
                folder,
                geometry,
                fabric.device,
                source,
                events,
                seed,
                lambda count: progress.advance(task, count),
            )
    say(found, console)
    return found


def bar(console: Console) -> Progress:
    """Events done and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def say(found: Calibration, console: Console) -> None:
    """The report of a calibration."""
    console.print(table_of(found.rows))
    known = found.reliability
    if found.false_alarms is not None:
        console.print(f"outside the training's domain: {found.false_alarms:.1%} of fresh events")
    if known.dead_light is not None:
        console.print(
            f"too much dead light: from {known.dead_light.threshold:.1%} of the light hidden in "
            "a hole on"
        )
    if found.events < FEW_EVENTS:
        console.print(
            f"warning: {found.events} events are too few to trust this; use more (--events)"
        )
