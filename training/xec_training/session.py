"""One training from the command line: device, progress bar, log, calibration, checkpoint."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from xec.detector.geometry import Geometry, load_survey, parametric
from xec.errors import UsageError
from xec.io.output import writing
from xec.models.checkpoint import load_checkpoint, save_checkpoint
from xec.simulation.generator import Generator
from xec_training import loop
from xec_training.calibrate import calibrate
from xec_training.config import TrainingConfig
from xec_training.memory import keep_freed_memory
from xec_training.source import signal_simulation

LOG_EVERY = 20  # steps


class Session:
    """Runs a `loop.Trainer` where a person watches."""

    def __init__(
        self, config: TrainingConfig, out: Path, device: str, threads: int, survey: Path | None
    ) -> None:
        if device not in ("cpu", "cuda"):
            raise UsageError(f"--device is cpu or cuda, not {device}.")
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("No CUDA device is available; use --device cpu.")
        keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        self.config, self.out, self.device = config, out, torch.device(device)
        self.geometry: Geometry = parametric() if survey is None else load_survey(survey)
        self.console = Console(stderr=True)

    def run(self, calibration_events: int) -> None:
        """Train, calibrate on fresh events, save.

        Raises:
            FileError: when the folder cannot be written to.
        """
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            self._run(calibration_events)

    def _run(self, calibration_events: int) -> None:
        trainer = loop.Trainer(self.config, self.geometry, self.device, self.out)
        final = self._train(trainer)
        self.calibrate(calibration_events)
        self.console.print(
            f"{final.events} events in {final.seconds:.0f} s "
            f"({final.events / max(final.seconds, 1e-9):.0f} events/s): {self.out}"
        )

    def _train(self, trainer: loop.Trainer) -> loop.Progress:
        columns = (
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.fields[events]} events, loss {task.fields[loss]:.3f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        log = self.out / "training.csv"
        with Progress(*columns, console=self.console) as bar, log.open("w", newline="") as file:
            task = bar.add_task("training", total=1.0, events=0, loss=float("nan"))
            writer: csv.DictWriter[str] | None = None

            def report(progress: loop.Progress) -> None:
                nonlocal writer
                loss = sum(progress.losses.values())
                bar.update(task, completed=progress.fraction, events=progress.events, loss=loss)
                if progress.step % LOG_EVERY == 1:
                    row = {"step": progress.step, "events": progress.events, "loss": loss}
                    row |= {"seconds": round(progress.seconds, 1), **progress.losses}
                    if writer is None:
                        writer = csv.DictWriter(file, fieldnames=list(row))
                        writer.writeheader()
                    writer.writerow(row)
                    file.flush()

            return trainer.run(report)

    def calibrate(self, events: int) -> None:
        """Measure the sigma scales and intervals of the saved checkpoint and save it again."""
        model, checkpoint = load_checkpoint(self.out, self.geometry)
        model.to(self.device)
        source = Generator(signal_simulation(), self.geometry, self.device, self.config.seed + 10)
        scale = calibrate(model, source, events, self.config.seed + 11)
        training = {**checkpoint.training, "calibration_events": events}
        calibrated = type(checkpoint)(
            checkpoint.config,
            checkpoint.preset,
            checkpoint.geometry_hash,
            training,
            scale,
        )
        save_checkpoint(self.out, model.cpu(), calibrated)
