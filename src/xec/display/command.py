"""`xec display`: a picture of one event."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from xec.cli import Command
from xec.errors import UsageError

SUFFIXES: Final = (".png", ".pdf", ".svg")
DOTS_PER_INCH: Final = 150


def _refuse_contradictions(
    event: int | None, entry: int | None, results: Path | None, model: Path | None, out: Path
) -> None:
    if event is not None and entry is not None:
        raise UsageError("--event and --entry both choose the event: give one of them.")
    if results is not None and model is not None:
        raise UsageError("--results and --model both give the reconstruction: give one of them.")
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: a picture is a {', '.join(SUFFIXES[:-1])} or .svg file.")


def display(
    source: Annotated[
        Path, typer.Argument(metavar="FILE.root", help="Events, in the experiment's format.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Picture: .png, .pdf or .svg.")],
    event: Annotated[
        int | None, typer.Option(metavar="N", help="Number of the event.", show_default=False)
    ] = None,
    entry: Annotated[
        int | None,
        typer.Option(
            metavar="I", min=0, help="Or its place in the file; 0, the first, by default."
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="Reconstructions of these events.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Model repository, to reconstruct here.")
    ] = None,
) -> None:
    """Draw an event on the unfolded detector: as measured, and reconstructed.

    Without --results or --model only as measured.

    Example: xec display run00407.root --event 12 --results run00407.parquet --out event12.png
    """
    _refuse_contradictions(event, entry, results, model, out)
    # Heavy modules only now: this file is loaded for every `xec` command.
    from xec.display import event_display, load  # noqa: PLC0415
    from xec.io.output import refuse_same_file, replacing, writing  # noqa: PLC0415

    for read in filter(None, (source, results)):
        refuse_same_file(read, out)
    which = load.Entry(entry or 0) if event is None else load.EventNumber(event)
    picture = load.load_event(source, which)
    if results is not None:
        picture = picture.with_reconstruction(load.stored_reconstruction(results, picture.event))
    elif model is not None:
        picture = picture.with_reconstruction(load.computed_reconstruction(model, picture))
    figure = event_display.figure_for(picture)
    event_display.draw_event(figure, picture)
    with replacing(out) as file, writing(out):
        figure.savefig(file, format=out.suffix[1:], dpi=DOTS_PER_INCH)


COMMAND = Command(run=display, needs=("matplotlib", "uproot", "awkward", "pyarrow"), extra="client")
