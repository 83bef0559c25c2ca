"""Learning-rate schedules against their closed forms and torch's schedulers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler

from xec.errors import UsageError
from xec_training import schedule
from xec_training.schedule import Constant, Cosine, OneCycle, Plateau, Schedule

EXACT = 1e-12


def optimiser(lr: float, *scales: float) -> torch.optim.Optimizer:
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr_scale": scale}
        for scale in scales or (1.0,)
    ]
    return torch.optim.SGD(groups, lr=lr)


def rates_of(
    optimiser: torch.optim.Optimizer, scheduler: lr_scheduler.LRScheduler, steps: int
) -> list[float]:
    """What torch's scheduler sets at steps 0 to `steps`."""
    rates = [float(optimiser.param_groups[0]["lr"])]
    for _ in range(steps):
        optimiser.step()
        scheduler.step()
        rates.append(float(optimiser.param_groups[0]["lr"]))
    return rates


def test_cosine_is_the_specifications_closed_form() -> None:
    lr, low, warmup, total = 3e-4, 1e-6, 2.0, 30.0
    cosine = Cosine(lr, low, warmup, total)
    for position in (2.0, 2.01, 9.7, 16.0, 29.99, 30.0):
        phase = (position - warmup) / (total - warmup)
        expected = low + 0.5 * (lr - low) * (1 + math.cos(math.pi * phase))
        assert cosine.rate(position) == pytest.approx(expected, rel=EXACT)
    assert cosine.rate(2.0) == pytest.approx(lr, rel=EXACT)
    assert cosine.rate(16.0) == pytest.approx((lr + low) / 2, rel=EXACT)
    assert cosine.rate(30.0) == pytest.approx(low, rel=EXACT)
    assert cosine.rate(31.0) == pytest.approx(low, rel=EXACT)


def test_cosine_is_torchs_at_every_step() -> None:
    lr, low, steps = 3e-4, 1e-6, 50
    sgd = optimiser(lr)
    torchs = rates_of(sgd, lr_scheduler.CosineAnnealingLR(sgd, steps, low), steps)
    cosine = Cosine(lr, low, 0.0, 5.0)
    assert [cosine.rate(step / 10) for step in range(steps + 1)] == pytest.approx(torchs, rel=1e-9)


@pytest.mark.parametrize(
    "warm",
    [Constant(1e-3, 2.0), Cosine(1e-3, 0.0, 2.0, 8.0), Plateau(1e-3, 1, 0.5, 0.0, 2.0)],
)
def test_the_warmup_is_torchs_linear_one_from_a_hundredth(warm: Schedule) -> None:
    sgd = optimiser(1e-3)
    torchs = rates_of(sgd, lr_scheduler.LinearLR(sgd, 0.01, 1.0, 20), 20)
    assert [warm.rate(step / 10) for step in range(21)] == pytest.approx(torchs, rel=1e-9)
    assert warm.rate(0.0) == pytest.approx(1e-5, rel=EXACT)
    assert warm.rate(math.nextafter(2.0, 0.0)) == pytest.approx(warm.rate(2.0), rel=EXACT)


def test_one_cycle_is_torchs_two_halves_at_every_step() -> None:
    """Torch has one strategy for both: its linear rise and its cosine fall are the halves."""
    lr, high, low, total, share = 1e-4, 3e-4, 1e-7, 101, 0.31
    torchs = {}
    for strategy in ("linear", "cos"):
        sgd = optimiser(lr)
        scheduler = lr_scheduler.OneCycleLR(
            sgd,
            high,
            total_steps=total,
            pct_start=share,
            anneal_strategy=strategy,  # type: ignore[arg-type]
            div_factor=high / lr,
            final_div_factor=lr / low,
            cycle_momentum=False,
        )
        torchs[strategy] = rates_of(sgd, scheduler, total - 1)
    # Torch's last step is total - 1, and its peak lies at share * total - 1.
    last, peak = total - 1, share * total - 1
    ours = OneCycle(lr, high, peak / last, low, last)
    for step in range(total):
        expected = torchs["linear" if step < peak else "cos"][step]
        assert ours.rate(step) == pytest.approx(expected, rel=1e-9), step


def test_one_cycle_at_its_start_peak_and_end() -> None:
    ours = OneCycle(1e-4, 3e-4, 0.3, 1e-7, 20.0)
    assert ours.rate(0.0) == pytest.approx(1e-4, rel=EXACT)
    assert ours.rate(3.0) == pytest.approx(2e-4, rel=EXACT)
    assert ours.rate(6.0) == pytest.approx(3e-4, rel=EXACT)
    assert ours.rate(13.0) == pytest.approx((3e-4 + 1e-7) / 2, rel=EXACT)
    assert ours.rate(20.0) == pytest.approx(1e-7, rel=EXACT)
    assert max(ours.rate(0.1 * step) for step in range(201)) == pytest.approx(3e-4, rel=EXACT)
    flat = OneCycle(1e-4, 1e-4, 0.3, 1e-7, 20.0)
    assert flat.rate(3.0) == pytest.approx(1e-4, rel=EXACT)


METRICS = [5, 4, 4.1, 4.0, 3.9999, 4.2, 3.9, math.nan, 3.8, 3.9, 3.9, 3.9, 3.9, 3.7, *[3.7] * 20]


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_is_torchs(patience: int) -> None:
    sgd = optimiser(1e-3)
    torchs = lr_scheduler.ReduceLROnPlateau(sgd, "min", 0.5, patience, min_lr=2e-5, eps=0.0)
    ours = Plateau(1e-3, patience, 0.5, 2e-5)
    seen = set()
    for epoch, metric in enumerate(METRICS):
        torchs.step(metric)
        ours.observe(metric)
        seen.add(ours.rate(epoch + 1.0))
        assert ours.rate(epoch + 1.0) == pytest.approx(sgd.param_groups[0]["lr"], rel=EXACT), epoch
    assert len(seen) > 3
    assert patience > 0 or min(seen) == 2e-5


def test_plateau_sees_a_negative_metric_stall_and_torch_does_not() -> None:
    """Torch's `best * (1 - threshold)` lies above a negative best."""
    sgd = optimiser(1e-3)
    torchs, ours = lr_scheduler.ReduceLROnPlateau(sgd, patience=2), Plateau(1e-3, 2, 0.5, 0.0)
    for _ in range(10):
        torchs.step(-1.5)
        ours.observe(-1.5)
    assert sgd.param_groups[0]["lr"] == 1e-3
    assert ours.rate(10.0) == pytest.approx(1e-3 / 2**3)
    improving = Plateau(1e-3, 2, 0.5, 0.0)
    for epoch in range(10):
        improving.observe(-1.5 - 0.01 * epoch)
    assert improving.rate(10.0) == 1e-3


@pytest.mark.parametrize("cut", [0, 3, 7, 12])
def test_a_resumed_plateau_goes_on(cut: int) -> None:
    whole, first = Plateau(1e-3, 1, 0.5, 0.0), Plateau(1e-3, 1, 0.5, 0.0)
    for metric in METRICS[:cut]:
        first.observe(metric)
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    second = Plateau(1e-3, 1, 0.5, 0.0)
    second.load_state_dict(state)
    for metric in METRICS[:cut]:
        whole.observe(metric)
    for metric in METRICS[cut:]:
        whole.observe(metric)
        second.observe(metric)
        assert second.rate(50.0) == whole.rate(50.0)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "fixed", [Constant(1e-3), Cosine(1e-3, 0.0, 1.0, 9.0), OneCycle(1e-4, 1e-3, 0.3, 0.0, 9.0)]
)
def test_other_schedules_remember_nothing(fixed: Schedule) -> None:
    before = fixed.rate(4.0)
    fixed.observe(1.0)
    fixed.load_state_dict(fixed.state_dict())
    assert fixed.rate(4.0) == before
    assert fixed.state_dict() == {}


def test_a_warmup_almost_as_long_as_the_training() -> None:
    cosine = Cosine(1e-3, 0.0, 2.0, 2.001)
    assert cosine.rate(2.0) == pytest.approx(1e-3, rel=EXACT)
    assert cosine.rate(2.0005) == pytest.approx(5e-4, rel=1e-9)


def test_every_group_gets_the_rate_times_its_scale() -> None:
    sgd = optimiser(1.0, 1.0, 0.1, 0.0)
    schedule.apply(sgd, 2e-3)
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([2e-3, 2e-4, 0.0])
    schedule.apply(sgd, 1e-3)
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([1e-3, 1e-4, 0.0])


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: Cosine(1e-3, 0.0, 5.0, 5.0), "training.warmup_epochs"),
        (lambda: Cosine(1e-3, 0.0, 6.0, 5.0), "training.warmup_epochs"),
        (lambda: Cosine(1e-3, 0.0, -1.0, 5.0), "training.warmup_epochs"),
        (lambda: Constant(1e-3, math.nan), "training.warmup_epochs"),
        (lambda: Cosine(1e-3, 0.0, 0.0, 0.0), "training.epochs"),
        (lambda: Cosine(1e-3, 2e-3, 0.0, 5.0), "training.lr_min"),
        (lambda: Constant(0.0), r"training\.lr "),
        (lambda: Constant(math.nan), r"training\.lr "),
        (lambda: OneCycle(1e-3, 9e-4, 0.3, 0.0, 5.0), "training.max_lr"),
        (lambda: OneCycle(1e-3, 2e-3, 0.0, 0.0, 5.0), "training.pct_start"),
        (lambda: OneCycle(1e-3, 2e-3, 1.0, 0.0, 5.0), "training.pct_start"),
        (lambda: OneCycle(1e-3, 2e-3, 0.5, 3e-3, 5.0), "training.lr_min"),
        (lambda: Plateau(1e-3, 1, 0.0, 0.0), "training.lr_factor"),
        (lambda: Plateau(1e-3, 1, 1.0, 0.0), "training.lr_factor"),
        (lambda: Plateau(1e-3, -1, 0.5, 0.0), "training.lr_patience"),
    ],
)
def test_impossible_schedules_name_their_key(build: Callable[[], Schedule], key: str) -> None:
    with pytest.raises(UsageError, match=key):
        build()
