"""What a training is told: the keys of `configs/*.yaml`, checked before anything starts.

The keys of `training` are the specification's (sections 1 to 4); every other key says its unit.
One class per stage: `PretrainSettings`, `InpaintSettings`, `RegressSettings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from xec.models.build import GraphMixer
from xec.models.positions import PositionKind
from xec.models.reconstructor import SpreadKind
from xec.models.stage import AttentionKind, Placement
from xec_training.loss_settings import InpaintLosses, PretrainLosses, RegressLosses, TaskLoss
from xec_training.masking import MaskKind
from xec_training.optimiser import OptimiserName
from xec_training.sections import Count, NotNegative, Positive, Section, Share

Precision = Literal["fp32", "bf16", "fp16"]

SMALLEST_FACTOR = 0.01  # of D-Adaptation, whose authors recommend 1


class DataSettings(Section):
    """Where events come from.

    Args:
        source: `sim:` (endless), `sim:N` (epochs of N fresh events), or ROOT files and patterns.
        validation: events to validate on, used whole; by default fresh simulated ones, or a share
            of the files.
        validation_share: share of the files that training never sees.
        validation_events: simulated events to validate on.
        energy: range of simulated energies in MeV, flat.
        geometry: table of surveyed sensors; the ideal geometry without it.
    """

    source: str | list[str] = "sim:"
    validation: str | list[str] | None = None
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    validation_events: Count = 1000
    energy: tuple[Positive, Positive] = (12.0, 62.0)
    geometry: str | None = None

    @property
    def simulated(self) -> bool:
        """Whether events are simulated as they are needed."""
        return isinstance(self.source, str) and self.source.startswith("sim:")

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.energy[0] > self.energy[1]:
            raise ValueError(f"data.energy must rise, not {self.energy[0]} to {self.energy[1]}")
        return self


class ModelSettings(Section):
    """The network: a preset and what differs from it; names as in the specification.

    Args:
        preset: base, small or tiny.
        mask_ratio: largest additional share of live sensors masked per event (`hide`).
        attention, attention_placement: inside the grid faces.
        positions: of the face tokens.
        graph_mixer: of the hexagonal faces.
        drop_path: stochastic depth; the preset's own without it.
        spread: what the spreads see.
        noise_floor: whether a sensor's spread contains the known noise of a reading.
        fit_steps: of the fit of the light's sources (`xec.models.light_fit`).
    """

    preset: Literal["base", "small", "tiny"] = "small"
    mask_ratio: Share = 0.15
    attention: AttentionKind = "none"
    attention_placement: Placement = "last"
    positions: PositionKind = "learnable"
    graph_mixer: GraphMixer = "gatv2"
    drop_path: Share | None = None
    spread: SpreadKind = "detached"
    noise_floor: bool = False
    fit_steps: Annotated[int, Field(ge=0, le=16)] = 3


class FillingModelSettings(ModelSettings):
    """The same with the masks of the later stages.

    Args:
        bright_mask_ratio: the same of the inner sensors in the brightest light (`hide`).
    """

    bright_mask_ratio: Share = 0.0


class PretrainModelSettings(ModelSettings):
    """The same with the masks of the autoencoder.

    Args:
        mask_ratio: share of each face's valid sensors that is masked.
        mask_kind: single sensors, clusters, or either by chance.
    """

    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.6
    mask_kind: MaskKind = "mixed"


def _amp(value: Any) -> Any:
    """The specification's switch: true is its fp16, false is fp32."""
    return {True: "fp16", False: "fp32"}.get(value, value) if isinstance(value, bool) else value


class TrainingSettings(Section):
    """How to train; the keys of the specification's "Training Features" and a few more.

    Args:
        epochs: length of the training and of its schedule.
        steps_per_epoch: optimiser steps that make an epoch of endless data.
        minutes: wall-clock budget: the schedule is stretched over it, `epochs` is then its unit.
        batch_size: events per micro-batch and process.
        grad_accum_steps: micro-batches per optimiser step.
        optimizer: adamw, dadapt_adam (lr is a factor, 1.0) or schedule_free.
        scheduler: cosine, onecycle, plateau or none.
        warmup_epochs: linear rise at the start; not for onecycle, which has `pct_start`.
        lr, lr_min: learning rate and its smallest value (cosine, plateau, end of onecycle).
        max_lr, pct_start: peak of onecycle (default lr) and the share of the rise.
        lr_patience, lr_factor: epochs without improvement, and the factor then, of plateau.
        ema_decay: of the averaged weights; null for none.
        amp: fp32, bf16 or fp16; true means fp16 (with loss scaling), false fp32.
        compile: run the network through torch.compile.
        weight_decay: on matrices and kernels.
        clip_norm: largest gradient norm, of the mean and of the spread path separately.
        encoder_lr_scale: factor on the encoder's learning rate, to keep what pretraining learned.
        monitor: what selects the checkpoint: rmse, or nll, a proper score (METHODS L5).
        flip: mirror events at random.
        npho_noise: standard deviation of noise on the input's counts, photons.
        time_jitter: standard deviation of noise on the input's times, ns.
        max_bad_batches: micro-batches in a row without a finite loss before giving up.
        save_minutes: between saves, besides one per epoch.
        seed: of weights, events, masks.
    """

    epochs: Positive = 20.0
    steps_per_epoch: Count | None = None
    minutes: Positive | None = None
    batch_size: Count = 32
    grad_accum_steps: Count = 1
    optimizer: OptimiserName = "adamw"
    scheduler: Literal["cosine", "onecycle", "plateau", "none"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    lr: Positive = 1.5e-3
    lr_min: NotNegative = 1.0e-5
    max_lr: Positive | None = None
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    lr_patience: Annotated[int, Field(ge=0)] = 5
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    ema_decay: Share | None = 0.999
    amp: Annotated[Precision, BeforeValidator(_amp)] = "fp32"
    compile: bool = False
    weight_decay: NotNegative = 0.02
    clip_norm: Positive = 1.0
    encoder_lr_scale: Positive = 1.0
    monitor: Literal["rmse", "nll"] = "rmse"
    flip: bool = True
    npho_noise: NotNegative = 0.0
    time_jitter: NotNegative = 0.0
    max_bad_batches: Count = 20
    save_minutes: Positive = 5.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for sentence in _contradictions(self):
            raise ValueError(sentence)
        return self


def _contradictions(t: TrainingSettings) -> Iterator[str]:
    """What cannot be meant together, a sentence each."""
    onecycle, free = t.scheduler == "onecycle", t.optimizer == "schedule_free"
    if t.warmup_epochs >= t.epochs:
        yield (
            f"training.warmup_epochs ({t.warmup_epochs:g}) must be below "
            f"training.epochs ({t.epochs:g})"
        )
    if onecycle and t.warmup_epochs > 0:
        yield (
            "training.warmup_epochs contradicts scheduler onecycle, which rises over "
            "training.pct_start: set training.warmup_epochs=0"
        )
    if t.max_lr is not None and not onecycle:
        yield f"training.max_lr belongs to scheduler onecycle, not to {t.scheduler}: leave it out"
    if t.max_lr is not None and t.max_lr < t.lr:
        yield f"training.max_lr ({t.max_lr}) must not be below training.lr ({t.lr})"
    if onecycle and t.minutes is not None:
        yield (
            "training.scheduler onecycle needs a total number of steps, which training.minutes "
            "does not give: use training.epochs"
        )
    if t.lr_min > t.lr and t.scheduler != "none":
        yield f"training.lr_min ({t.lr_min}) must not be above training.lr ({t.lr})"
    if free and t.scheduler != "none":
        yield (
            "training.optimizer schedule_free replaces the schedule: set training.scheduler=none"
        )
    if t.optimizer == "dadapt_adam" and t.lr < SMALLEST_FACTOR:
        yield (
            f"training.lr is the factor of the step that dadapt_adam finds, and {t.lr} would stop "
            "it: set training.lr=1"
        )
    if free and t.ema_decay is not None:
        yield ("training.optimizer schedule_free averages by itself: set training.ema_decay=null")


class ReweightSettings(Section):
    """Weights of events by how rare they are.

    Args:
        energy_bins, angle_bins: bins of the density; null leaves that quantity alone.
        largest: largest weight.
    """

    energy_bins: Annotated[int, Field(ge=2)] | None = None
    angle_bins: Annotated[int, Field(ge=2)] | None = None
    largest: Annotated[float, Field(ge=1)] = 10.0


class LoggingSettings(Section):
    """Logs, beside the CSV that is always written.

    Args:
        every: optimiser steps between entries.
        tensorboard: also write TensorBoard event files.
    """

    every: Count = 20
    tensorboard: bool = False


class Settings(Section):
    """What all stages have in common."""

    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _length_of_an_epoch(self) -> Self:
        training = self.training
        if self.data.source != "sim:" or training.steps_per_epoch or training.minutes:
            return self
        if training.scheduler == "onecycle":
            raise ValueError(
                "training.scheduler onecycle needs a total number of steps, and data.source sim: "
                "is endless: set training.steps_per_epoch, or a length such as sim:100000"
            )
        raise ValueError(
            "data.source sim: is endless, so that an epoch has no length: set "
            "training.steps_per_epoch or training.minutes, or a length such as sim:100000"
        )


class PretrainSettings(Settings):
    """The masked autoencoder."""

    model: PretrainModelSettings = PretrainModelSettings()
    loss: PretrainLosses = PretrainLosses()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for task, loss in (("npho", self.loss.npho), ("time", self.loss.time)):
            if loss.kind == "noise_aware":
                raise ValueError(
                    f"loss.{task}.kind noise_aware is for filling sensors, not for pretraining"
                )
        if self.model.spread != "detached" or self.model.noise_floor:
            raise ValueError(
                "model.spread and model.noise_floor belong to the later stages: leave them out of "
                "a pretraining"
            )
        _check_monitor(self.training, self.loss.npho, self.loss.time)
        return self


def _check_monitor(training: TrainingSettings, *losses: TaskLoss) -> None:
    """A likelihood can select checkpoints only where some task learns a sigma."""
    if training.monitor == "nll" and not any(
        loss.weight > 0 and loss.loss_kind.trains_spread for loss in losses
    ):
        raise ValueError(
            "training.monitor nll needs a loss that trains a sigma, such as faithful: set "
            "training.monitor=rmse"
        )


def _check_faithful(training: TrainingSettings, model: ModelSettings, *losses: TaskLoss) -> None:
    """A faithful mean shares neither gradients nor a step size with its spread (METHODS L2, L4)."""
    if not any(loss.weight > 0 and loss.kind == "faithful" for loss in losses):
        return
    if model.spread == "shared":
        raise ValueError(
            "model.spread shared lets the spreads change the means, so that loss kind faithful "
            "would not be: set model.spread=detached, or another kind"
        )
    if training.optimizer == "dadapt_adam":
        raise ValueError(
            "training.optimizer dadapt_adam finds one step size for means and spreads together, so "
            "that loss kind faithful would not be: choose mse or nll, or another optimizer"
        )


def _check_noise(model: ModelSettings, losses: InpaintLosses) -> None:
    if losses.npho.kind == "noise_aware" and not model.noise_floor:
        raise ValueError("loss.npho.kind noise_aware needs model.noise_floor=true")
    if losses.time.kind == "noise_aware":
        raise ValueError("loss.time.kind noise_aware is for counts: choose another kind")


class InpaintSettings(Settings):
    """Filling of dead sensors.

    Args:
        calibration_events: held-out events for the scales of the sigmas.
    """

    model: FillingModelSettings = FillingModelSettings()
    loss: InpaintLosses = InpaintLosses()
    calibration_events: Annotated[int, Field(ge=2)] = 4000

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _check_noise(self.model, self.loss)
        losses = self.loss.tasks
        _check_monitor(self.training, *losses)
        _check_faithful(self.training, self.model, *losses)
        return self


class RegressSettings(InpaintSettings):
    """Filling of dead sensors and the gamma.

    Args:
        reweight: weights of events in the gamma's tasks.
    """

    loss: RegressLosses = RegressLosses()
    reweight: ReweightSettings = ReweightSettings()
