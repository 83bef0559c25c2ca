"""Learning rate against training time: constant, cosine, one cycle, or by plateaus.

Positions, warm-ups and totals count epochs, with fractions: the rate is set anew at each
optimiser step. A warm-up rises linearly from lr / 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from xec.errors import UsageError

WARMUP_START: Final = 0.01  # of the rate after warm-up
PLATEAU_THRESHOLD: Final = 1e-4  # relative; torch's ReduceLROnPlateau

State = dict[str, float | None]


class Schedule(Protocol):
    """What the training loop asks of a schedule."""

    def rate(self, position: float) -> float:
        """Learning rate at `position`, epochs since the start."""
        ...

    def observe(self, metric: float) -> None:
        """Take note of an epoch's validation metric; smaller is better."""
        ...

    def state_dict(self) -> State:
        """What a resumed training must know; JSON-serialisable."""
        ...

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Go on from `state`."""
        ...


def apply(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's own `lr_scale`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]


class Stateless:
    """A schedule that depends on the position alone."""

    __slots__ = ()

    def observe(self, metric: float) -> None:
        """Metrics change nothing."""

    def state_dict(self) -> State:
        """Nothing to remember."""
        return {}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Nothing to remember."""


@dataclass(frozen=True, slots=True)
class Constant(Stateless):
    """`lr` after a warm-up."""

    lr: float
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr, self.warmup, math.inf)

    def rate(self, position: float) -> float:
        """Learning rate at `position`."""
        return self.lr * _warmth(position, self.warmup)


@dataclass(frozen=True, slots=True)
class Cosine(Stateless):
    """A warm-up, then half a cosine down to `lr_min` at `total` (Loshchilov & Hutter, 2017).

    lr_min + (lr - lr_min) (1 + cos(pi (position - warmup) / (total - warmup))) / 2.
    """

    lr: float
    lr_min: float
    warmup: float
    total: float

    def __post_init__(self) -> None:
        _check(self.lr, self.warmup, self.total)
        _check_floor(self.lr_min, "lr", self.lr)

    def rate(self, position: float) -> float:
        """Learning rate at `position`; `lr_min` beyond the end."""
        if position < self.warmup:
            return self.lr * _warmth(position, self.warmup)
        return _half_cosine(
            self.lr, self.lr_min, (position - self.warmup) / (self.total - self.warmup)
        )


@dataclass(frozen=True, slots=True)
class OneCycle(Stateless):
    """Linearly from `lr` up to `max_lr`, then half a cosine down (Smith & Topin, 2017).

    Args:
        lr: at the start.
        max_lr: at pct_start * total.
        pct_start: share of the training that rises.
        lr_min: at the end.
        total: epochs.
    """

    lr: float
    max_lr: float
    pct_start: float
    lr_min: float
    total: float

    def __post_init__(self) -> None:
        _check(self.lr, 0.0, self.total)
        if not self.lr <= self.max_lr < math.inf:
            raise UsageError(
                f"training.max_lr must be at least training.lr ({self.lr:g}), not {self.max_lr:g}."
            )
        if not 0.0 < self.pct_start < 1.0:
            raise UsageError(
                f"training.pct_start must lie between 0 and 1, not {self.pct_start:g}."
            )
        _check_floor(self.lr_min, "max_lr", self.max_lr)

    def rate(self, position: float) -> float:
        """Learning rate at `position`; `lr_min` beyond the end."""
        peak = self.pct_start * self.total
        if position < peak:
            return self.lr + (self.max_lr - self.lr) * position / peak
        return _half_cosine(self.max_lr, self.lr_min, (position - peak) / (self.total - peak))


class Plateau:
    """Multiplies the rate by `factor` whenever the metric has stalled for `patience` epochs.

    As torch's ReduceLROnPlateau (mode min, relative threshold 1e-4, eps 0), but a negative metric
    must fall by the threshold too: torch takes a log likelihood that stands still below zero for
    an improvement, forever.

    Args:
        lr: before the first reduction.
        patience: epochs without improvement that are forgiven.
        factor: of each reduction.
        lr_min: never below.
        warmup: epochs of the warm-up.
    """

    def __init__(
        self, lr: float, patience: int, factor: float, lr_min: float, warmup: float = 0.0
    ) -> None:
        _check(lr, warmup, math.inf)
        _check_floor(lr_min, "lr", lr)
        if not 0.0 < factor < 1.0:
            raise UsageError(f"training.lr_factor must lie between 0 and 1, not {factor:g}.")
        if patience < 0:
            raise UsageError(f"training.lr_patience must not be negative, not {patience}.")
        self.patience, self.factor, self.lr_min, self.warmup = patience, factor, lr_min, warmup
        self.lr = lr
        self.best = math.inf
        self.stalled = 0

    def rate(self, position: float) -> float:
        """Learning rate at `position` after the metrics so far."""
        return self.lr * _warmth(position, self.warmup)

    def observe(self, metric: float) -> None:
        """Take note of an epoch's metric; one that is no number is no improvement."""
        margin = PLATEAU_THRESHOLD * abs(self.best) if math.isfinite(self.best) else 0.0
        if metric < self.best - margin:
            self.best, self.stalled = metric, 0
        else:
            self.stalled += 1
        if self.stalled > self.patience:
            self.lr, self.stalled = max(self.lr * self.factor, self.lr_min), 0

    def state_dict(self) -> State:
        """Rate, best metric (None: none yet), epochs without improvement."""
        best = self.best if math.isfinite(self.best) else None
        return {"lr": self.lr, "best": best, "stalled": self.stalled}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Go on from `state`."""
        lr, best, stalled = state["lr"], state["best"], state["stalled"]
        assert lr is not None
        assert stalled is not None
        self.lr, self.stalled = lr, int(stalled)
        self.best = math.inf if best is None else best


def _warmth(position: float, warmup: float) -> float:
    if position >= warmup:
        return 1.0
    return WARMUP_START + (1.0 - WARMUP_START) * position / warmup


def _half_cosine(high: float, low: float, phase: float) -> float:
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * min(phase, 1.0)))


def _check(lr: float, warmup: float, total: float) -> None:
    if not 0.0 < lr < math.inf:
        raise UsageError(f"training.lr must be positive, not {lr:g}.")
    if not total > 0.0:
        raise UsageError(f"training.epochs must be positive, not {total:g}.")
    if not 0.0 <= warmup < total:
        raise UsageError(
            f"training.warmup_epochs must be at least 0 and less than the training's epochs "
            f"({total:g}), not {warmup:g}."
        )


def _check_floor(lr_min: float, name: str, highest: float) -> None:
    if not 0.0 <= lr_min <= highest:
        raise UsageError(
            f"training.lr_min must lie between 0 and training.{name} ({highest:g}), not {lr_min:g}."
        )
