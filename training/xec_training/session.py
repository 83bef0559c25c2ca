"""One training from the command line: data, network, logs, progress, saves, calibration."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from xec.detector.geometry import Geometry, load_survey, parametric
from xec.errors import UsageError
from xec.io.output import writing
from xec.models.checkpoint import DESCRIPTION, read_checkpoint
from xec.models.transfer import HandedOver, hand_over
from xec_training import state, trainer
from xec_training.calibrate import calibrate_checkpoint
from xec_training.calibration_report import table_of
from xec_training.curves import save_curves
from xec_training.data.open import open_source
from xec_training.data.source import EventSource
from xec_training.keeper import SETTINGS_FILE, Keeper, Request
from xec_training.memory import explain_out_of_memory, keep_freed_memory
from xec_training.processes import launched
from xec_training.reweighting import Reweighting, fit_source
from xec_training.settings import PretrainSettings, RegressSettings
from xec_training.settings_file import as_yaml
from xec_training.stages import AnySettings, Plan, plan
from xec_training.validation import Report

FEW_EVENTS = 200  # a quantile of 100 pulls (half of them) is known to about 10 %


class Interrupted(SystemExit):
    """The process was asked to end; the state was saved before."""


class Session:
    """Runs a `trainer.Trainer` where a person watches.

    Raises:
        UsageError: a device that is not there, an output that holds another training.
        FileError, ModelError: data or checkpoints that cannot be used.
    """

    def __init__(self, settings: AnySettings, request: Request) -> None:
        keep_freed_memory()
        if request.threads:
            torch.set_num_threads(request.threads)
        self.settings, self.request = settings, request
        self.console = Console(stderr=True)
        survey = settings.data.geometry
        self.geometry: Geometry = parametric() if survey is None else load_survey(Path(survey))
        self.asked_to_end: int | None = None

    def run(self) -> Report:
        """Train, calibrate on held-out events, save; returns the last validation."""
        out = self.request.out
        _refuse_place(out, self.request.resume)
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        with launched(self.request.device, self._loggers()) as fabric:
            torch.manual_seed(self.settings.training.seed)
            the_plan = plan(self.settings, self.geometry)
            self._start_from(the_plan, fabric)
            source, validation = self._sources(fabric, the_plan)
            with (
                closing(source),
                closing(validation),
                explain_out_of_memory(self.settings.training.batch_size),
                self._signals(),
            ):
                return self._train(fabric, the_plan, source, validation)

    def _loggers(self) -> list[Logger]:
        loggers: list[Logger] = [
            CSVLogger(self.request.out, name="logs", flush_logs_every_n_steps=1)
        ]
        if self.settings.logging.tensorboard:
            loggers.append(TensorBoardLogger(self.request.out, name="tensorboard"))
        return loggers

    def _say(self, fabric: Fabric, text: str) -> None:
        if fabric.is_global_zero:
            self.console.print(text, highlight=False, soft_wrap=True)

    def _start_from(self, the_plan: Plan, fabric: Fabric) -> None:
        """Take over an earlier stage's weights."""
        if self.request.init is None or self.request.resume:
            return
        weights, checkpoint = read_checkpoint(self.request.init, self.geometry)
        done: HandedOver = hand_over(weights, checkpoint.stage, the_plan.model)
        self._say(
            fabric,
            f"from {self.request.init} ({checkpoint.stage}): {done.taken} tensors taken over, "
            f"{len(done.fresh)} start fresh",
        )

    def _sources(self, fabric: Fabric, the_plan: Plan) -> tuple[EventSource, EventSource]:
        data, training = self.settings.data, self.settings.training
        common: dict[str, Any] = {
            "geometry": self.geometry,
            "device": fabric.device,
            "seed": training.seed,
            "batch_size": training.batch_size,
            "rank": fabric.global_rank,
            "world": fabric.world_size,
            "require_truth": the_plan.stage == "regress",
            "energy": data.energy,
        }
        if data.validation is not None:  # held-out files of their own: each is used whole
            source = open_source(data.source, part="train", validation_share=0.0, **common)
            held_out, share = data.validation, 1.0
        else:
            share = data.validation_share
            source = open_source(data.source, part="train", validation_share=share, **common)
            held_out = f"sim:{data.validation_events}" if data.simulated else data.source
        validation = open_source(held_out, part="validation", validation_share=share, **common)
        return source, validation

    def _train(
        self, fabric: Fabric, the_plan: Plan, source: EventSource, validation: EventSource
    ) -> Report:
        reweighting = self._reweighting(source)
        run = trainer.Trainer(
            fabric, the_plan, self.settings.training, source, validation, reweighting
        )
        keeper = Keeper(self.settings, self.request, self.geometry.hash, fabric, run)
        if self.request.resume:
            keeper.resume()
            self._say(fabric, f"resumed at step {run.timeline.step}")
        if fabric.is_global_zero:
            with writing(self.request.out):
                (self.request.out / SETTINGS_FILE).write_text(as_yaml(self.settings))
        with writing(self.request.out):
            self._loop(run, keeper)
            report = keeper.finish()
        self._finish(fabric, the_plan, validation, run)
        return report

    def _finish(
        self, fabric: Fabric, the_plan: Plan, validation: EventSource, run: trainer.Trainer
    ) -> None:
        if fabric.is_global_zero and not isinstance(self.settings, PretrainSettings):
            with writing(self.request.out), self.console.status("calibrating sigmas"):
                found = calibrate_checkpoint(
                    self.request.out,
                    self.geometry,
                    fabric.device,
                    validation,
                    self.settings.calibration_events,
                    self.settings.training.seed,
                )
            self.console.print(table_of(found.rows))
            if found.events < FEW_EVENTS:
                self._say(
                    fabric,
                    f"warning: sigmas are calibrated on {found.events} held-out events only, which "
                    "are too few to trust them; hold out more (data.validation_share)",
                )
        if fabric.is_global_zero:
            kind = ", synthetic events" if run.source.synthetic else ""
            title = f"{the_plan.stage}, {self.settings.model.preset}{kind}"
            save_curves(self.request.out, title)
        fabric.barrier()
        timeline = run.timeline
        self._say(
            fabric,
            f"{self.request.out}: {timeline.events} events in {timeline.step} steps and "
            f"{timeline.seconds:.0f} s, {self.settings.training.monitor} {run.counts.best:.4g} "
            f"on {the_plan.stage}'s held-out events",
        )

    def _reweighting(self, source: EventSource) -> Reweighting | None:
        if not isinstance(self.settings, RegressSettings):
            return None
        wanted = self.settings.reweight
        if wanted.energy_bins is None and wanted.angle_bins is None:
            return None
        return fit_source(
            Reweighting(wanted.energy_bins, wanted.angle_bins, wanted.largest), source
        )

    def _loop(self, run: trainer.Trainer, keeper: Keeper) -> None:
        columns = (
            TextColumn(f"{run.plan.stage}"),
            BarColumn(),
            TextColumn("{task.fields[events]} events, loss {task.fields[loss]:.4g}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        hidden = not run.fabric.is_global_zero
        with Progress(*columns, console=self.console, disable=hidden) as bar:
            task = bar.add_task("training", total=1.0, events=0, loss=float("nan"))
            for progress in run.steps():
                loss = sum(progress.losses.values())
                bar.update(task, completed=progress.fraction, events=progress.events, loss=loss)
                keeper.after(progress)
                if run.processes.any(self.asked_to_end is not None):
                    keeper.save()
                    self._say(
                        run.fabric, f"interrupted; go on with --resume --out {self.request.out}"
                    )
                    raise Interrupted(128 + (self.asked_to_end or signal.SIGTERM))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note a request to end; the training ends after the step that it is in."""

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self.asked_to_end = number

        old = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _refuse_place(out: Path, resume: bool) -> None:
    """Never write over a training that is there already.

    Raises:
        UsageError: when there is one and it is not to be resumed.
    """
    if resume:
        return
    if state.has_state(out):
        raise UsageError(f"{out} holds a training: go on with --resume, or choose another --out.")
    if (out / DESCRIPTION).exists():
        raise UsageError(f"{out} holds a checkpoint already; choose another --out.")
