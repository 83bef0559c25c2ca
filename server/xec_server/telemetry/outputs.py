"""What the engine was given and what it answered, summed up batch by batch.

Predicted over measured light on live sensors, per face, is near 1 where detector and model fit
each other; a face that departs from it is going bad (or its calibration is).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily

from xec.assembly import Outputs, finite_rows
from xec.detector.channels import FACE_IDS, N_CHANNELS, Face
from xec.engines.base import Engine, ModelInfo, Tensors
from xec.engines.onnx import OnnxEngine

BATCH_SIZES: Final = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256)
DEAD_SENSORS: Final = (0, 10, 25, 50, 75, 100, 125, 150, 200, 300, 500, 1000, 2000, 4760)


def _pieces() -> tuple[NDArray[np.intp], list[Face]]:
    """Where runs of neighbouring ids of one face begin, and whose they are."""
    face_of = np.empty(N_CHANNELS, dtype=object)
    for face, ids in FACE_IDS.items():
        face_of[ids] = face
    changes = np.flatnonzero(face_of[1:] != face_of[:-1]) + 1
    starts = np.concatenate([[0], changes]).astype(np.intp)
    return starts, list(face_of[starts])


_STARTS, _FACES = _pieces()


def light_by_face(light: NDArray[np.float64]) -> dict[Face, float]:
    """Sums of `light` (4760,) over the sensors of each face."""
    sums = dict.fromkeys(Face, 0.0)
    for face, part in zip(_FACES, np.add.reduceat(light, _STARTS), strict=True):
        sums[face] += float(part)
    return sums


class _Rising:
    """Sums that never fall: what is negative waits until more light has made up for it."""

    def __init__(self) -> None:
        self.total = dict.fromkeys(Face, 0.0)
        self._owed = dict.fromkeys(Face, 0.0)

    def add(self, sums: dict[Face, float]) -> None:
        for face, part in sums.items():
            owed = self._owed[face] + part
            self.total[face] += max(owed, 0.0)
            self._owed[face] = min(owed, 0.0)


class OutputMetrics:
    """Sees each batch, from any thread.

    Args:
        registry: of the server's metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._predicted, self._measured = _Rising(), _Rising()
        self._sizes = Histogram(
            "xec_batch_events",
            "Events in an engine call.",
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self._dead = Histogram(
            "xec_dead_sensors",
            "Sensors without a valid count in an event.",
            buckets=DEAD_SENSORS,
            registry=registry,
        )
        self._events = Counter(
            "xec_engine_events",
            "Events that an engine has computed, and whether in place of Triton.",
            ("engine", "fallback"),
            registry=registry,
        )
        self._rows = Counter(
            "xec_engine_rows",
            "Rows that were computed for events, those that fill up a batch included.",
            registry=registry,
        )
        self._not_finite = Counter(
            "xec_not_finite", "Events whose answer holds what is no number.", registry=registry
        )
        registry.register(self)

    def observe(self, engine: Engine, inputs: Tensors, outputs: Outputs, model: ModelInfo) -> None:
        """Sum up a batch.

        Args:
            engine: that was asked.
            inputs: the contract's, each (B, width).
            outputs: the contract's, each (B, width).
            model: that answered.
        """
        valid = inputs["npho_valid"].astype(np.float32)
        npho = inputs["npho"].astype(np.float32, copy=False)
        B = len(valid)
        self._sizes.observe(B)
        fallback = str(model.engine != engine.model.engine).lower()
        self._events.labels(model.engine, fallback).inc(B)
        self._rows.inc(engine.rows_for(B) if isinstance(engine, OnnxEngine) else B)
        for live in np.count_nonzero(valid, axis=1):
            self._dead.observe(N_CHANNELS - int(live))
        finite = finite_rows(outputs)
        self._not_finite.inc(B - int(np.count_nonzero(finite)))
        mean = outputs["npho_mean"]
        if not finite.all():
            valid, npho, mean = valid[finite], npho[finite], mean[finite]
        predicted = light_by_face((mean * valid).sum(axis=0, dtype=np.float64))
        measured = light_by_face((npho * valid).sum(axis=0, dtype=np.float64))
        with self._lock:
            self._predicted.add(predicted)
            self._measured.add(measured)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The sums of light, for a scrape."""
        with self._lock:
            told = (
                ("predicted", dict(self._predicted.total)),
                ("measured", dict(self._measured.total)),
            )
        for what, sums in told:
            family = CounterMetricFamily(
                f"xec_light_{what}_photons",
                f"Light on live sensors, {what}, by face.",
                labels=("face",),
            )
            for face, light in sums.items():
                family.add_metric((face.value,), light)
            yield family
