"""`xec train`: train a network on simulated events and leave a calibrated checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xec.cli import Command


def train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    preset: Annotated[str, typer.Option(help="base, small or tiny.")] = "small",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps to make.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall-clock budget instead.")] = None,
    batch_size: Annotated[int, typer.Option(help="Events per step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate after warm-up.")] = 2.0e-3,
    seed: Annotated[int, typer.Option(help="Of events, masks and initial weights.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")] = 0,
    calibration_events: Annotated[
        int, typer.Option(min=2, help="Held-out events for sigmas.")
    ] = 4000,
    geometry: Annotated[Path | None, typer.Option(help="Surveyed sensor table.")] = None,
) -> None:
    """Train on simulated events with dead sensors: inpainting and regression in one pass.

    Example: xec train --preset small --minutes 60 --out runs/small
    """
    from xec_training.config import TrainingConfig  # noqa: PLC0415
    from xec_training.session import Session  # noqa: PLC0415

    config = TrainingConfig(
        preset=preset, steps=steps, minutes=minutes, batch_size=batch_size, lr=lr, seed=seed
    )
    Session(config, out, device, threads, geometry).run(calibration_events)


COMMAND = Command(run=train, needs=("torch", "safetensors"), extra="train")
