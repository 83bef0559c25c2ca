"""One pass over the events: masked, reconstructed by every method, and accumulated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.assembly import is_finite
from xec.engines.base import Engine, tensors_of
from xec.errors import EngineError, InvalidEvent
from xec.event import EventBatch
from xec.metrics.noise import CountingNoise
from xec.metrics.reservoir import Largest, Reservoir
from xec_evaluation.baselines import Estimate, Fill
from xec_evaluation.content import CONVENTIONAL, NETWORK
from xec_evaluation.filling import Answers, Filling, answers_of
from xec_evaluation.modes import Masked, Masking
from xec_evaluation.quantities import COMPONENTS, errors, stacked
from xec_evaluation.source import Source

FloatArray = NDArray[np.float64]

WORST_EVENTS: Final = 5
WORST_QUANTITIES: Final = ("relative_energy", "distance")

SUMS: Final = ("count", "absolute", "square", "signed")
"""Per event and method: sums of the errors on its masked sensors."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rows that are kept for quantiles: what bounds the memory of a run.

    Args:
        sensors: masked sensors, all methods' answers each.
        events: events, their truth and estimates each.
    """

    sensors: int = 200_000
    events: int = 50_000


@dataclass(frozen=True, slots=True)
class Methods:
    """Who answers.

    Args:
        engine: the network.
        fills: conventional methods for dead sensors, by name.
        gamma: the conventional estimators of the gamma, if wanted.
    """

    engine: Engine
    fills: Mapping[str, Fill]
    gamma: Estimate | None

    @property
    def fill_names(self) -> tuple[str, ...]:
        """The network and the conventional methods for dead sensors."""
        return (NETWORK, *self.fills)

    @property
    def gamma_names(self) -> tuple[str, ...]:
        """The network and, if wanted, the conventional estimators."""
        return (NETWORK,) if self.gamma is None else (NETWORK, CONVENTIONAL)


@dataclass(slots=True)
class Clock:
    """Seconds per method."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, method: str) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        yield
        self.seconds[method] = self.seconds.get(method, 0.0) + time.perf_counter() - start


def event_columns(methods: Methods) -> tuple[str, ...]:
    """Names of the numbers that are kept of an event."""
    return (
        *(f"truth {name}" for name in COMPONENTS),
        *(f"sigma {name}" for name in COMPONENTS),
        *(f"{method} {name}" for method in methods.gamma_names for name in COMPONENTS),
        *(f"{method} {name}" for method in methods.fill_names for name in SUMS),
    )


class Collection:
    """Everything that one pass accumulates; its size does not grow with the events.

    Args:
        methods: who answers.
        capacity: rows that are kept.
        seed: of the samples.
    """

    def __init__(self, methods: Methods, capacity: Capacity, seed: int) -> None:
        self.methods = methods
        self.filling = Filling(methods.fill_names, capacity.sensors, seed)
        self.events = Reservoir(event_columns(methods), capacity.events, seed)
        self.worst = {name: Largest(6, WORST_EVENTS) for name in WORST_QUANTITIES}
        self.noise = CountingNoise()
        self.clock = Clock()
        self.read = self.used = self.masked = 0

    def add(self, masked: Masked, file: int) -> None:
        """Reconstruct events of file number `file` and accumulate the answers.

        Raises:
            InvalidEvent: an event has no live sensor.
            EngineError: the network failed, or its answer is not finite.
        """
        events = masked.events
        _refuse_blind(events)
        if not self.used:
            self._warm_up(events[:1])
        outputs = self._infer(events)
        fill: dict[str, NDArray[Any]] = {NETWORK: outputs["npho_mean"]}
        for name, method in self.methods.fills.items():
            with self.clock.of(name):
                fill[name] = method(events)
        answers = answers_of(masked, fill, outputs["npho_sigma"])
        estimates = {NETWORK: stacked(outputs)}
        if self.methods.gamma is not None:
            with self.clock.of(CONVENTIONAL):
                estimates[CONVENTIONAL] = stacked(self.methods.gamma(events))
        self.filling.add(answers, file, masked)
        self._add_events(events, answers, estimates, stacked(outputs, "_sigma"), file)
        self.used += len(events)
        self.masked += len(answers.row)

    def _warm_up(self, event: EventBatch) -> None:
        """What a method prepares once per geometry is not counted to its cost."""
        for fill in self.methods.fills.values():
            fill(event)
        if self.methods.gamma is not None:
            self.methods.gamma(event)

    def _infer(self, events: EventBatch) -> Mapping[str, NDArray[np.float32]]:
        with self.clock.of(NETWORK):
            outputs = self.methods.engine.infer(tensors_of(events))
        for row in range(len(events)):
            if not is_finite(outputs, row):
                raise EngineError(
                    f"The model's answer to event {events.event[row]} of run {events.run[row]} is "
                    "not finite: leave the event out, and report it with the model's version."
                )
        return outputs

    def _add_events(
        self,
        events: EventBatch,
        answers: Answers,
        estimates: Mapping[str, FloatArray],
        sigma: FloatArray,
        file: int,
    ) -> None:
        truth = events.truth
        unknown = np.full((len(events), len(COMPONENTS)), np.nan)
        known = unknown if truth is None else stacked(truth)
        sums = [_event_sums(answers, name, len(events)) for name in self.methods.fill_names]
        rows = [known, sigma, *(estimates[name] for name in self.methods.gamma_names), *sums]
        self.events.add(np.concatenate(rows, axis=1))
        if truth is not None:
            self._add_worst(events, known, estimates[NETWORK], sigma, file)

    def _add_worst(
        self,
        events: EventBatch,
        truth: FloatArray,
        estimate: FloatArray,
        sigma: FloatArray,
        file: int,
    ) -> None:
        where = [np.full(len(events), file), events.run, events.event]
        found = errors(estimate, truth)
        energy = found["energy"]
        rows = np.stack([*where, truth[:, 0], estimate[:, 0], sigma[:, 0]], axis=1)
        self.worst["relative_energy"].add(np.abs(energy / truth[:, 0]), rows)
        apart = found["distance"]
        spread = np.linalg.norm(sigma[:, 2:5], axis=1)
        rows = np.stack([*where, np.zeros(len(events)), apart, spread], axis=1)
        self.worst["distance"].add(apart, rows)


def _refuse_blind(events: EventBatch) -> None:
    blind = ~events.npho_valid.any(axis=1)
    if blind.any():
        row = int(blind.argmax())
        raise InvalidEvent(
            f"Event {events.event[row]} of run {events.run[row]} has no sensor with a valid "
            "count: leave it out of the file, or check the dead list."
        )


def _event_sums(answers: Answers, method: str, count: int) -> FloatArray:
    """Number, |error|, error^2 and error summed over each event's masked sensors, (B, 4)."""
    error = answers.fill[method] - answers.truth
    known = np.isfinite(error)
    row, error = answers.row[known], error[known]
    weights = (np.ones(len(error)), np.abs(error), error * error, error)
    return np.stack([np.bincount(row, weight, count) for weight in weights], axis=1)


def collect(
    source: Source,
    masking: Masking,
    methods: Methods,
    *,
    capacity: Capacity,
    seed: int,
    advance: Callable[[int], None],
) -> Collection:
    """Read, mask, reconstruct and accumulate all events.

    Args:
        source: the files.
        masking: hides sensors.
        methods: who answers.
        capacity: rows that are kept.
        seed: of the samples.
        advance: called with the number of events that are done.

    Raises:
        XecError: a file is damaged, an event has no live sensor, or the engine failed.
    """
    found = Collection(methods, capacity, seed)
    for file, chunk in source.chunks():
        found.noise.add(chunk.events.npho, chunk.events.npho_valid)
        masked = masking(chunk)
        if len(masked):
            found.add(masked, file)
        found.read += len(chunk)
        advance(len(chunk))
    return found
