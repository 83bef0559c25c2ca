"""`xec train`: pretrain, inpaint, regress, and the faithfulness report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xec.cli import Command

if TYPE_CHECKING:
    from xec.models.checkpoint import Stage

app = typer.Typer(
    no_args_is_help=True,
    help="Train the network: pretrain, then inpaint, then regress; each hands its weights on.",
)

Config = Annotated[Path | None, typer.Option(help="YAML file; the shipped ones are in configs/.")]
Out = Annotated[Path, typer.Option(help="Folder of the training and its checkpoint.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value, such as training.lr=0.001; may be repeated."),
]
Data = Annotated[
    list[str] | None,
    typer.Option(help="sim:, sim:EVENTS, or ROOT files and patterns; may be repeated."),
]
Init = Annotated[Path | None, typer.Option(help="Checkpoint of an earlier stage to start from.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the training in --out, by its own settings.")
]
Device = Annotated[str, typer.Option(help="cpu or cuda; several by torchrun.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")]


def _train(
    stage: Stage,
    out: Path,
    config: Path | None,
    overrides: list[str] | None,
    data: list[str] | None,
    init: Path | None,
    resume: bool,
    device: str,
    threads: int,
) -> None:
    from xec_training.keeper import SETTINGS_FILE, Request  # noqa: PLC0415
    from xec_training.session import Session  # noqa: PLC0415
    from xec_training.settings_file import load_settings  # noqa: PLC0415
    from xec_training.stages import SETTINGS  # noqa: PLC0415

    if resume and config is None and (out / SETTINGS_FILE).is_file():
        config = out / SETTINGS_FILE
    settings = load_settings(SETTINGS[stage], config, _overrides(overrides, data))
    Session(settings, Request(out, init, resume, device, threads)).run()


def _overrides(given: list[str] | None, data: list[str] | None) -> list[str]:
    """The overrides, with --data as one of them."""
    if not data:
        return given or []
    value = json.dumps(data[0] if len(data) == 1 else data)
    return [*(given or []), f"data.source={value}"]


@app.command()
def pretrain(
    *,
    out: Out,
    config: Config = None,
    overrides: Overrides = None,
    data: Data = None,
    init: Init = None,
    resume: Resume = False,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Masked autoencoder: learn the detector by predicting sensors that were taken away.

    Example: xec train pretrain --config configs/pretrain.yaml --data sim:100000 --out runs/a
    """
    _train("pretrain", out, config, overrides, data, init, resume, device, threads)


@app.command()
def inpaint(
    *,
    out: Out,
    config: Config = None,
    overrides: Overrides = None,
    data: Data = None,
    init: Init = None,
    resume: Resume = False,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Fill dead sensors, each with its uncertainty; starts from a pretrained encoder.

    Example: xec train inpaint --config configs/inpaint.yaml --init runs/a --out runs/b
    """
    _train("inpaint", out, config, overrides, data, init, resume, device, threads)


@app.command()
def regress(
    *,
    out: Out,
    config: Config = None,
    overrides: Overrides = None,
    data: Data = None,
    init: Init = None,
    resume: Resume = False,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Measure the gamma beside filling dead sensors: what `xec export` needs.

    Example: xec train regress --config configs/regress.yaml --init runs/b --out runs/c
    """
    _train("regress", out, config, overrides, data, init, resume, device, threads)


@app.command()
def calibrate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUNDIR", help="Folder of a checkpoint.")],
    *,
    events: Annotated[int, typer.Option(min=2, help="Held-out events.")] = 10_000,
    data: Data = None,
    seed: Annotated[int, typer.Option(min=0, help="Of simulated events and masks.")] = 1,
    geometry: Annotated[Path | None, typer.Option(help="Surveyed table of the sensors.")] = None,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Measure sigmas, intervals and limits of a trained network anew, and say how well they hold.

    A training ends with this by itself. Files that are given must hold events that the network
    has not learned from.

    Example: xec train calibrate runs/c --events 20000
    """
    import torch  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from xec_training.calibrate_run import run  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)
    run(run_dir, data or ["sim:"], events, seed, device, geometry, Console())


@app.command()
def faithfulness(
    *,
    out: Out,
    config: Config = None,
    overrides: Overrides = None,
    data: Data = None,
    init: Init = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Loss to compare with mse; may be repeated.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Report: is the mean as good as that of a plain squared error? Trains once per loss.

    Example: xec train faithfulness --config configs/regress.yaml --data sim:20000 --out runs/f
    """
    from rich.console import Console  # noqa: PLC0415

    from xec_training.faithfulness import compare  # noqa: PLC0415
    from xec_training.keeper import Request  # noqa: PLC0415
    from xec_training.settings import RegressSettings  # noqa: PLC0415
    from xec_training.settings_file import load_settings  # noqa: PLC0415

    settings = load_settings(RegressSettings, config, _overrides(overrides, data))
    request = Request(out, init, False, device, threads)
    compare(settings, request, kind or ["faithful"], Console())


COMMAND = Command(
    run=app, needs=("torch", "safetensors", "lightning_fabric", "pydantic", "yaml"), extra="train"
)
