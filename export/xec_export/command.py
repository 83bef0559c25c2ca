"""`xec export`: checkpoint to model repository, after the graph has been compared with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xec.cli import Command
from xec.errors import UsageError


def export(
    checkpoint: Annotated[Path | None, typer.Option(help="Folder that `xec train` wrote.")] = None,
    halves_of: Annotated[
        Path | None,
        typer.Option(
            help="In place of a checkpoint: a repository whose network is cut into halves."
        ),
    ] = None,
    repository: Annotated[Path, typer.Option(help="Model repository to write to.")] = Path(
        "model_repository"
    ),
    version: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of the served version: 1, or with --halves-of the highest there is."
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(help="Model to write: reconstruct, inpaint, regress; repeat. All by default."),
    ] = None,
    torchscript: Annotated[
        bool, typer.Option(help="Write TorchScript modules too, for Triton's pytorch backend.")
    ] = False,
    precision: Annotated[
        str,
        typer.Option(help="fp16: write graphs for GPUs with a half-precision encoder as well."),
    ] = "float32",
    card_events: Annotated[
        int, typer.Option(min=1, help="Fresh events for the model card.")
    ] = 2000,
    geometry: Annotated[Path | None, typer.Option(help="Surveyed sensor table.")] = None,
) -> None:
    """Export a trained network to ONNX and write its folders of the model repository.

    Each model gets its graph, golden events, a parity report, and configurations for Triton;
    nothing is written unless all of it agrees with PyTorch. The models inpaint and regress, which
    compute one half each, can also be cut out of a network that was exported before.

    Example: xec export --checkpoint runs/small --repository model_repository
    """
    from xec_export.halves import HALVES, run_halves  # noqa: PLC0415
    from xec_export.options import ExportOptions  # noqa: PLC0415
    from xec_export.session import run_export  # noqa: PLC0415

    if (checkpoint is None) == (halves_of is None):
        raise UsageError("Name either --checkpoint FOLDER or --halves-of REPOSITORY.")
    if halves_of is not None:
        if torchscript or precision != "float32" or geometry is not None:
            raise UsageError(
                "--torchscript, --precision and --geometry need the network itself: name "
                "--checkpoint in place of --halves-of."
            )
        run_halves(halves_of, version, repository, tuple(models or HALVES))
        return
    assert checkpoint is not None
    options = ExportOptions(
        tuple(models) if models else ExportOptions().models, torchscript, precision
    )
    run_export(checkpoint, repository, str(version or 1), card_events, geometry, options)


COMMAND = Command(run=export, needs=("torch", "onnx", "onnxruntime", "onnxscript"), extra="export")
