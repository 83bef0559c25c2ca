"""The training loop: it learns, resumes bit for bit, and steps over what is no number."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support_trainer import different, run, through_disk, trainer, weights
from xec.errors import DivergedError
from xec.models.reconstructor import Reconstructor
from xec.simulation import event_file
from xec_training.data.batch import TrainingBatch
from xec_training.data.files import FileSource
from xec_training.data.source import EventSource
from xec_training.optimiser import is_spread
from xec_training.terms import sums
from xec_training.trainer import Trainer
from xec_training.unreached import freeze_unreached

# What may make two trainings differ: everything that holds a state or draws random numbers.
TRAININGS = {
    "pretrain": ("pretrain", "model.drop_path=0.3"),
    "accumulated": ("regress", "training.grad_accum_steps=2", "training.warmup_epochs=0.5"),
    "noise": ("inpaint", "training.npho_noise=5", "training.time_jitter=0.1"),
    "plateau": ("inpaint", "training.scheduler=plateau", "training.lr_patience=0"),
    "onecycle": ("inpaint", "training.scheduler=onecycle", "training.max_lr=0.01"),
    "schedule_free": (
        "inpaint",
        "training.optimizer=schedule_free",
        "training.scheduler=none",
        "training.ema_decay=null",
    ),
    "dadapt_adam": (
        "inpaint",
        "training.optimizer=dadapt_adam",
        "training.lr=1.0",
        "loss.npho.kind=nll",
        "loss.time.kind=nll",
    ),
    "fp16": ("pretrain", "training.amp=fp16"),
    "bf16": ("regress", "training.amp=bf16"),
    "no average": ("regress", "training.ema_decay=null", "training.encoder_lr_scale=0.1"),
}


def resumed(what: tuple[str, ...], saved: Any, source: EventSource | None = None) -> Trainer:
    """What another process makes of a saved state, whatever it did before."""
    training = trainer(*what, source=source)
    torch.manual_seed(99)
    training.load_state_dict(saved)
    return training


@pytest.mark.parametrize("what", TRAININGS.values(), ids=TRAININGS)
def test_a_resumed_training_is_the_one_that_was_not_interrupted(
    what: tuple[str, ...], tmp_path: Path
) -> None:
    """Five batches an epoch: interrupted in the middle of the first, and again at its end."""
    whole = run(trainer(*what))
    saved = through_disk(run(trainer(*what), steps=2), tmp_path)
    second = resumed(what, saved)
    saved = through_disk(run(second, steps=whole.timeline.steps_per_epoch - 2), tmp_path)
    third = run(resumed(what, saved))
    assert third.timeline.step == whole.timeline.step
    assert third.timeline.events == whole.timeline.events == 36
    assert different(weights(third), weights(whole)) == []


@pytest.mark.parametrize("lost", ["random", "source", "masks", "flip", "optimiser", "average"])
def test_without_any_part_of_its_state_a_resumed_training_differs(
    lost: str, tmp_path: Path
) -> None:
    """Negative control of the test above."""
    what = ("pretrain", "model.drop_path=0.3")
    whole = run(trainer(*what))
    saved = through_disk(run(trainer(*what), steps=2), tmp_path)
    second = trainer(*what)
    torch.manual_seed(99)
    second.load_state_dict({**saved, lost: second.state_dict()[lost]})
    assert different(weights(run(second)), weights(whole)) != []


def test_a_training_on_files_resumes_bit_for_bit(tmp_path: Path) -> None:
    """The state is that of the last batch used, however far the reading thread is ahead."""
    path = tmp_path / "events.root"
    event_file.write(event_file.Request(150, path, 3, 1, (20.0, 60.0), None, 0.0, "cpu"))

    def source() -> EventSource:
        return FileSource([path], 8, 1, window=1, require_truth=True)

    what = ("regress", "data.source=sim:100", "training.epochs=1")
    whole = run(trainer(*what, source=source()))
    first = run(trainer(*what, source=source()), steps=3)
    saved = through_disk(first, tmp_path)
    second = resumed(what, saved, source())
    run(second)
    assert different(weights(second), weights(whole)) == []
    for training in (whole, first, second):
        training.source.close()


@pytest.mark.parametrize("what", ["pretrain", "schedule_free"])
def test_looking_changes_nothing(what: str, tmp_path: Path) -> None:
    """Validations and saves, however many, leave the training as it is."""
    plain = trainer(*TRAININGS[what])
    for _ in plain.steps():
        pass
    watched = trainer(*TRAININGS[what])
    for _ in watched.steps():
        watched.validate()
        through_disk(watched, tmp_path)
    assert different(weights(watched), weights(plain)) == []


def test_schedule_free_validates_other_weights_than_it_trains() -> None:
    """Control: there is something that looking could have changed."""
    training = run(trainer(*TRAININGS["schedule_free"]), steps=3)
    live = [p.detach().clone() for p in training.model.parameters()]
    with training.evaluation() as model:
        assert any(not torch.equal(a, b) for a, b in zip(live, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(live, training.model.parameters(), strict=True))


@pytest.mark.parametrize("stage", ["pretrain", "inpaint", "regress"])
def test_training_lowers_the_error_on_held_out_events(stage: str) -> None:
    training = trainer(stage, "data.source=sim:240", "training.epochs=1")
    before = training.validate()
    after = run(training).validate()
    assert after.monitor < before.monitor
    assert after.metrics["mae/npho/inner"] < before.metrics["mae/npho/inner"]
    names = set(after.metrics)
    assert ("rmse/energy" in names) == (stage == "regress")
    assert "rmse/npho" in names


def test_equal_seeds_train_equal_networks_and_others_do_not() -> None:
    first, second = (run(trainer("inpaint"), steps=2) for _ in range(2))
    assert different(weights(first), weights(second)) == []
    other = run(trainer("inpaint", "training.seed=2"), steps=2)
    assert different(weights(first), weights(other)) != []


def test_the_rate_follows_the_schedule_step_by_step() -> None:
    """Cosine with warm-up over two epochs of five steps, by the specification's closed form."""
    training = trainer("inpaint", "training.warmup_epochs=1", "training.lr_min=1e-5")
    rates = [progress.rate for progress in training.steps()]
    assert len(rates) == 10
    for step in range(5, 10):
        cosine = math.cos(math.pi * (step / 5 - 1) / (2 - 1))
        assert rates[step] == pytest.approx(1e-5 + 0.5 * (0.002 - 1e-5) * (1 + cosine), rel=1e-12)
    assert rates[:5] == sorted(rates[:5])
    assert [group["lr"] for group in training.optimiser.param_groups] == [rates[-1]] * 2


def test_leftovers_of_an_epoch_make_a_step_of_their_own() -> None:
    """Eighteen events in batches of 4 are 5 batches: with 2 per step, 3 steps."""
    training = trainer("inpaint", "training.grad_accum_steps=2")
    seen = [progress.events for progress in training.steps()]
    assert seen == [8, 16, 18, 26, 34, 36]


def test_a_wall_clock_budget_ends_the_training_and_its_schedule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("xec_training.timeline.time.monotonic", lambda: 3.0 * next(clock))
    training = trainer("inpaint", "data.source='sim:'", "training.minutes=1")
    progress = list(training.steps())
    assert 3 < len(progress) < 40
    assert progress[-1].rate < 0.2 * progress[0].rate


class Broken:
    """A source whose batches are no numbers at some places."""

    def __init__(self, source: EventSource, bad: set[int]) -> None:
        self.source, self.bad, self.drawn = source, bad, 0

    def next_batch(self) -> TrainingBatch:
        batch = self.source.next_batch()
        self.drawn += 1
        if self.drawn - 1 in self.bad:
            return replace(batch, light=torch.full_like(batch.light, torch.nan))
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def broken(bad: set[int], *overrides: str) -> Trainer:
    training = trainer("inpaint", *overrides)
    training.source = Broken(training.source, bad)  # type: ignore[assignment]
    return training


def test_a_step_without_a_finite_loss_changes_no_weight_and_no_average() -> None:
    training = run(broken({1}), steps=1)
    before = weights(training)
    losses = training.step(0.002)
    assert losses == {}
    assert different(weights(training), before) == []
    assert (training.counts.skipped, training.counts.in_a_row) == (1, 1)
    assert training.step(0.002) != {}
    assert different(weights(training), before) != []
    assert (training.counts.skipped, training.counts.in_a_row) == (1, 0)


def test_the_average_counts_optimiser_steps_and_no_skipped_ones() -> None:
    training = run(broken({1, 3, 4}, "training.grad_accum_steps=2"), steps=3)
    # Batches 0 1 | 2 3 | 4: the last step has no good micro-batch.
    assert training.average is not None
    assert int(training.average.n_averaged) == 2
    assert training.counts.skipped == 3


def test_too_many_in_a_row_end_the_training_in_a_sentence() -> None:
    training = broken(set(range(50)), "training.max_bad_batches=3")
    with pytest.raises(DivergedError, match=r"3 micro-batches in a row; lower training\.lr"):
        run(training)


def test_gradients_that_are_no_numbers_make_no_step() -> None:
    training = run(trainer("inpaint"), steps=1)
    before = weights(training)
    parameter = training.model.get_parameter("encoder.fusion.norm.weight")
    handle = parameter.register_hook(lambda grad: grad * torch.inf)
    training.step(0.002)
    handle.remove()
    assert different(weights(training), before) == []
    assert training.counts.skipped == 1


def mean_path(training: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in training.model.named_parameters() if not is_spread(n)}


def kinds(kind: str) -> list[str]:
    tasks = ("npho", "time", "energy", "gamma_time", "uvw", "angle")
    return [f"loss.{task}.kind={kind}" for task in tasks]


def test_faithful_trains_the_means_of_a_plain_squared_error_bit_for_bit() -> None:
    squared, faithful = (
        run(trainer("regress", *kinds(kind)), steps=6) for kind in ("mse", "faithful")
    )
    assert different(mean_path(faithful), mean_path(squared)) == []
    live = (dict(training.model.named_parameters()) for training in (faithful, squared))
    changed = different(*live)
    assert changed != []
    assert all(is_spread(name) for name in changed)


@pytest.mark.parametrize("kind", ["nll", "split_nll", "beta_nll"])
def test_other_likelihoods_do_not(kind: str) -> None:
    """Negative control; among them the specification's own formula."""
    squared, other = (run(trainer("regress", *kinds(k)), steps=3) for k in ("mse", kind))
    assert different(mean_path(other), mean_path(squared)) != []


def test_every_kind_of_loss_trains() -> None:
    for kind in ("smooth_l1", "noise_aware"):
        training = trainer("inpaint", f"loss.npho.kind={kind}", "model.noise_floor=true")
        assert all(math.isfinite(v) for v in training.step(0.002).values())
    training = trainer("regress", "loss.angle.distance=great_circle")
    assert all(math.isfinite(v) for v in training.step(0.002).values())


def test_the_monitored_value_is_an_error_or_a_proper_score_never_the_loss() -> None:
    """METHODS L5: the value of beta-NLL must not select checkpoints."""
    training = trainer("regress", *kinds("beta_nll"), "training.monitor=nll")
    report = training.validate()
    by_hand = sum(
        loss.weight * report.metrics[f"nll/{task.name}"]
        for task, loss in training.plan.measured
        if f"nll/{task.name}" in report.metrics
    )
    components = {"uvw": ("u", "v", "w"), "angle": ("theta", "phi")}
    for task, loss in training.plan.measured:
        if task.name in components:
            values = [report.metrics[f"nll/{task.name}/{c}"] for c in components[task.name]]
            by_hand += loss.weight * sum(values) / len(values)
    assert report.monitor == pytest.approx(by_hand, rel=1e-6)


def test_a_compiled_network_gives_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture of the whole graph, without the compiler that would take a minute."""
    plain = trainer("regress").step(0.002)
    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda m, **_: real(m, backend="aot_eager", fullgraph=True)
    )
    compiled = trainer("regress", "training.compile=true")
    assert isinstance(compiled.model, Reconstructor)
    for name, value in compiled.step(0.002).items():
        assert value == pytest.approx(plain[name], rel=1e-4), name


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("stage", ["pretrain", "regress"])
def test_half_precision_keeps_losses_in_float32_and_near(stage: str, amp: str) -> None:
    plain = trainer(stage).step(0.002)
    training = trainer(stage, f"training.amp={amp}")
    sample = training._next_sample()
    prediction = training._forward(sample)
    assert all(v is None or v.dtype is torch.float32 for v in prediction)
    for name, value in trainer(stage, f"training.amp={amp}").step(0.002).items():
        assert value == pytest.approx(plain[name], rel=0.1, abs=0.01), name


def test_parameters_that_no_loss_reaches_are_found_and_nothing_else_changes() -> None:
    training = trainer("inpaint", "model.drop_path=0.3")
    before = torch.get_rng_state()
    batch = next(iter(training.validation.batches()))
    names = freeze_unreached(training.plan, batch)
    assert torch.equal(torch.get_rng_state(), before)
    training.step(0.002)
    idle = [n for n, p in training.model.named_parameters() if p.grad is None]
    assert sorted(names) == sorted(idle)
    assert "log_light_yield" in names
    assert not any(name.startswith("encoder.") for name in names)
    assert freeze_unreached(trainer("regress").plan, batch) == []


def test_the_averaged_weights_are_validated_and_saved() -> None:
    training = run(trainer("inpaint"), steps=3)
    assert training.average is not None
    with training.evaluation() as model:
        assert model is training.average.module
        averaged, live = model.state_dict(), training.model.state_dict()
        assert any(not torch.equal(averaged[name], live[name]) for name in live)
    before = training.validate().monitor
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.zero_()
    assert training.validate().monitor == before


def test_plateau_is_fed_with_the_validated_value() -> None:
    training = trainer(*TRAININGS["plateau"])
    assert training.schedule.state_dict()["best"] is None
    report = training.validate()
    assert training.schedule.state_dict()["best"] == report.monitor


def test_onecycle_peaks_at_lr_where_max_lr_is_not_given() -> None:
    training = trainer("inpaint", "training.scheduler=onecycle", "training.pct_start=0.5")
    assert training.schedule.rate(1.0) == pytest.approx(0.002)


def test_pretraining_learns_nothing_from_sensors_that_it_sees() -> None:
    training = trainer("pretrain", "training.flip=false")
    sample = training._next_sample()
    loss = sums(training.plan.terms, training._forward(sample), sample)
    for where, same in ((~sample.masked.hidden, True), (sample.masked.hidden, False)):
        light = torch.where(where, sample.batch.light + 1000.0, sample.batch.light)
        changed = sample._replace(batch=replace(sample.batch, light=light))
        after = sums(training.plan.terms, training._forward(changed), changed)
        assert torch.equal(after, loss) == same


def test_an_overflow_in_fp16_is_no_bad_batch() -> None:
    training = trainer("pretrain", "training.amp=fp16", "training.max_bad_batches=1")
    training.step(0.002)  # heads start at zero and pass no gradient on before they have learned
    training.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = {n: p.detach().clone() for n, p in training.model.named_parameters()}
    training.step(0.002)
    assert (training.counts.overflows, training.counts.skipped) == (1, 0)
    assert different(before, dict(training.model.named_parameters())) == []
