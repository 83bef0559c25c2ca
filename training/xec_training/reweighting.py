"""Weights of events that make a training sample flat in energy and in direction.

An event weighs as much as its bin is rare: the inverse of its number of events, for energy and
direction each, multiplied. (For both at once that is flat where the two are independent.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from xec.errors import UsageError
from xec_training.data.source import EventSource


@dataclass(frozen=True, slots=True)
class Axis:
    """Equal bins between two values; what lies outside belongs to the nearest."""

    low: float
    high: float
    bins: int

    @classmethod
    def around(cls, values: Tensor, bins: int) -> Self:
        """From the smallest of the values to the largest."""
        return cls(float(values.min()), float(values.max()), bins)

    def index(self, values: Tensor) -> Tensor:
        """Bin of each value; all are in the first one where the axis has no width."""
        width = (self.high - self.low) / self.bins
        if width == 0.0:
            return torch.zeros_like(values, dtype=torch.int64)
        place = ((values.double() - self.low) / width).clamp(0, self.bins - 1)
        return place.long()


@dataclass(slots=True)
class Histogram:
    """Inverse numbers of events on a grid of bins; an empty bin counts as one event."""

    axes: tuple[Axis, ...]
    inverse: Tensor  # (bins of all axes,) float64

    @classmethod
    def of(cls, axes: tuple[Axis, ...], values: Tensor) -> Self:
        """Count `values`, (M, axes)."""
        size = math.prod(axis.bins for axis in axes)
        counts = torch.bincount(bin_of(axes, values), minlength=size)
        return cls(axes, 1.0 / counts.clamp(min=1).double())

    def __call__(self, values: Tensor) -> Tensor:
        """Inverse number of events (M,) around values (M, axes)."""
        self.inverse = self.inverse.to(values.device)
        return self.inverse[bin_of(self.axes, values)]


def bin_of(axes: tuple[Axis, ...], values: Tensor) -> Tensor:
    """Number (M,) of the bin of values (M, axes), the last axis running fastest."""
    index = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    for axis, column in zip(axes, values.unbind(1), strict=True):
        index = index * axis.bins + axis.index(column)
    return index


@dataclass(slots=True)
class Reweighting:
    """Weights inverse to the density of events; see the head of this file.

    Args:
        energy_bins: over the fitted energies; None: energy has no influence.
        angle_bins: for theta and for phi, over the fitted angles; None: as above.
        largest: no weight is larger; the others grow in turn, so that the mean stays 1.
    """

    energy_bins: int | None
    angle_bins: int | None
    largest: float = 10.0
    _energy: Histogram | None = field(default=None, init=False)
    _angle: Histogram | None = field(default=None, init=False)
    _scale: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        for bins in (self.energy_bins, self.angle_bins):
            if bins is not None and bins < 1:
                raise UsageError(f"Reweighting needs at least one bin, not {bins}.")
        if not self.largest >= 1.0:
            raise UsageError(
                f"The largest weight is {self.largest:g}; it cannot be below 1, the mean of all."
            )

    def fit(self, energy: Tensor, angle: Tensor) -> None:
        """Count the training sample.

        Args:
            energy: (M,) MeV.
            angle: (M, 2) degrees.

        Raises:
            UsageError: when it is empty.
        """
        if not len(energy):
            raise UsageError("Reweighting needs events with truth; there are none.")
        if self.energy_bins is not None:
            axis = Axis.around(energy, self.energy_bins)
            self._energy = Histogram.of((axis,), energy.unsqueeze(1))
        if self.angle_bins is not None:
            theta, phi = (Axis.around(column, self.angle_bins) for column in angle.unbind(1))
            self._angle = Histogram.of((theta, phi), angle)
        self._scale = scale_to_mean_one(self._raw(energy, angle), self.largest)

    def weights(self, energy: Tensor, angle: Tensor) -> Tensor:
        """Weights (B,), float32; their mean over the fitted sample is 1.

        Args:
            energy: (B,) MeV.
            angle: (B, 2) degrees.
        """
        return (self._raw(energy, angle) * self._scale).clamp(max=self.largest).float()

    def _raw(self, energy: Tensor, angle: Tensor) -> Tensor:
        raw = torch.ones_like(energy, dtype=torch.float64)
        if self._energy is not None:
            raw = raw * self._energy(energy.unsqueeze(1))
        if self._angle is not None:
            raw = raw * self._angle(angle)
        return raw

    def state_dict(self) -> dict[str, Any]:
        """What was fitted; fit for JSON."""
        return {
            "scale": self._scale,
            "energy": _as_json(self._energy),
            "angle": _as_json(self._angle),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another one of the same making has fitted."""
        self._scale = state["scale"]
        self._energy = _from_json(state["energy"])
        self._angle = _from_json(state["angle"])


def fit_source(reweighting: Reweighting, source: EventSource) -> Reweighting:
    """Count a source's events.

    Raises:
        UsageError: when none of them has a truth.
    """
    reweighting.fit(*source.truth())
    return reweighting


def scale_to_mean_one(raw: Tensor, largest: float) -> float:
    """The c for which min(c x raw, largest) has the mean 1.

    With the k largest ones at the limit, the others must add up to M - k x largest; k is the
    smallest number for which none of the others exceeds the limit.

    Args:
        raw: (M,) positive.
        largest: 1 or more.
    """
    falling = raw.double().sort(descending=True).values
    rest = falling.flip(0).cumsum(0).flip(0)  # of the k-th one and all behind it
    clipped = torch.arange(len(raw), device=raw.device).double()
    scale = (len(raw) - clipped * largest) / rest
    fits = (scale * falling <= largest * (1 + 1e-12)) & (scale > 0)
    return float(scale[fits][0])


def _as_json(histogram: Histogram | None) -> dict[str, Any] | None:
    if histogram is None:
        return None
    axes = [[axis.low, axis.high, axis.bins] for axis in histogram.axes]
    return {"axes": axes, "inverse": histogram.inverse.tolist()}


def _from_json(state: dict[str, Any] | None) -> Histogram | None:
    if state is None:
        return None
    axes = tuple(Axis(low, high, bins) for low, high, bins in state["axes"])
    return Histogram(axes, torch.tensor(state["inverse"], dtype=torch.float64))
