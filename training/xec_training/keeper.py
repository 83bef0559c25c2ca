"""What is due while a training goes on: logs, validation, and saves to resume from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lightning_fabric import Fabric

from xec.errors import UsageError
from xec.models.checkpoint import DESCRIPTION, Checkpoint, save_checkpoint
from xec_training import state
from xec_training.settings_file import as_dict, differences
from xec_training.stages import AnySettings
from xec_training.trainer import Progress, Trainer
from xec_training.validation import Report

SETTINGS_FILE: Final = "settings.yaml"
# What may differ when a training is resumed: its length, and what only watches it.
CHANGEABLE: Final = (
    "training.epochs",
    "training.minutes",
    "training.save_minutes",
    "logging",
    "calibration_events",
)


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line says beside the settings.

    Args:
        out: folder of the training.
        init: checkpoint of an earlier stage to start from.
        resume: go on with the training in `out`.
        device: cpu or cuda.
        threads: CPU threads; 0 leaves torch's choice.
    """

    out: Path
    init: Path | None = None
    resume: bool = False
    device: str = "cpu"
    threads: int = 0


class Keeper:
    """Logs, validates and saves while a training goes on.

    Args:
        settings: of the training.
        request: where it is written to.
        geometry_hash: of the detector.
        fabric: launched; its loggers take the metrics.
        run: the training.
    """

    def __init__(
        self,
        settings: AnySettings,
        request: Request,
        geometry_hash: str,
        fabric: Fabric,
        run: Trainer,
    ) -> None:
        self.settings, self.request, self.geometry_hash = settings, request, geometry_hash
        self.fabric, self.run = fabric, run
        self.out = request.out
        self.init = None if request.init is None else str(request.init)
        self.saved_at = run.timeline.seconds
        self.validated_step = -1
        self.report: Report | None = None

    def after(self, progress: Progress) -> None:
        """What is due after a step."""
        every = self.settings.logging.every
        if progress.step % every == 0 or progress.step == 1:
            self._log(progress)
        due = progress.seconds - self.saved_at > 60.0 * self.settings.training.save_minutes
        if self.run.timeline.epoch_ends:
            self.report = self.validate()
            self.save()
        elif due:
            self.save()

    def _log(self, progress: Progress) -> None:
        timeline = self.run.timeline
        values = {f"loss/{name}": value for name, value in progress.losses.items()}
        values |= {
            "loss": sum(progress.losses.values()),
            "lr": progress.rate,
            "epoch": progress.position,
            "events": float(progress.events),
            "skipped": float(progress.skipped),
            "events_per_s": progress.events / max(timeline.seconds, 1e-9),
            "waiting_share": self.run.counts.data_s / max(timeline.seconds, 1e-9),
        }
        self.fabric.log_dict(values, step=progress.step)

    def validate(self) -> Report:
        """Measure; keep the network if it is the best so far."""
        step = self.run.timeline.step
        report = self.run.validate()
        self.validated_step = step
        monitor = self.settings.training.monitor
        values = {f"validation/{name}": value for name, value in report.metrics.items()}
        self.fabric.log_dict({**values, f"validation/{monitor}": report.monitor}, step=step)
        if report.monitor < self.run.counts.best:
            self.run.counts.best = report.monitor
            self._save_network()
        return report

    def save(self) -> None:
        """Save the state to resume from."""
        step = self.run.timeline.step
        tree = {
            "settings": as_dict(self.settings),
            "init": self.init,
            "training": self.run.state_dict(),
        }
        state.write_part(self.out, step, self.fabric.global_rank, tree)
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            state.publish(self.out, step)
        self.saved_at = self.run.timeline.seconds

    def finish(self) -> Report:
        """Validate and save what the last steps brought; returns the last validation."""
        if self.report is None or self.validated_step != self.run.timeline.step:
            self.report = self.validate()
            self.save()
        if not (self.out / DESCRIPTION).is_file():  # no validation gave a number
            self._save_network()
        return self.report

    def resume(self) -> None:
        """Go on where the training in `out` was saved.

        Raises:
            ModelError: when there is none, or it cannot be read.
            UsageError: when other settings were used.
        """
        tree = state.read_part(self.out, self.fabric.global_rank, self.fabric.world_size)
        changed = [
            key
            for key in differences(tree["settings"], as_dict(self.settings))
            if not key.startswith(CHANGEABLE)
        ]
        if changed:
            raise UsageError(
                f"{self.out} was trained with another {changed[0]}; resume it with the same "
                f"settings, which are in {self.out / SETTINGS_FILE}."
            )
        self.init = tree["init"]
        self.run.load_state_dict(tree["training"])
        self.saved_at = self.run.timeline.seconds

    def description(self) -> Checkpoint:
        """What the checkpoint says of itself."""
        timeline, settings = self.run.timeline, self.settings
        training = {
            "stage": self.run.plan.stage,
            "settings": as_dict(settings),
            "data": self.run.source.description,
            "synthetic": self.run.source.synthetic,
            "init": self.init,
            "events": timeline.events,
            "steps": timeline.step,
            "seconds": round(timeline.seconds),
            "skipped": self.run.counts.skipped,
            "device": self.fabric.device.type,
            "processes": self.fabric.world_size,
            "monitor": settings.training.monitor,
            "best": self.run.counts.best,
        }
        return Checkpoint(
            self.run.plan.config,
            settings.model.preset,
            self.geometry_hash,
            training,
            stage=self.run.plan.stage,
        )

    def _save_network(self) -> None:
        if not self.fabric.is_global_zero:
            return
        with self.run.evaluation() as model:
            save_checkpoint(self.out, model, self.description())
