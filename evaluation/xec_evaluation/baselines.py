"""The conventional methods on batches of events, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.geometry import Geometry
from xec.event import EventBatch
from xec.recovery.conventional import ConventionalGamma, conventional_gamma
from xec.recovery.local_fit import local_fit_recovery
from xec.recovery.neighbour_average import neighbour_average
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex

FloatArray = NDArray[np.float64]

AVERAGE: Final = "neighbour average"
SOLID_ANGLE: Final = "solid angle"
LOCAL_FIT: Final = "local fit"

Fill = Callable[[EventBatch], FloatArray]
"""Photons of every sensor, (B, 4760); NaN where the method has no answer."""

Estimate = Callable[[EventBatch], ConventionalGamma]


def fills(geometry: Geometry, *, local_fit: bool) -> dict[str, Fill]:
    """The methods that fill dead sensors, by name.

    Args:
        geometry: positions and normals of the sensors.
        local_fit: whether the slowest of them is wanted.
    """

    def average(events: EventBatch) -> FloatArray:
        return neighbour_average(events.npho, events.npho_valid, geometry)

    def solid_angle(events: EventBatch) -> FloatArray:
        vertex = conventional_vertex(events.npho, events.npho_valid, geometry)
        return solid_angle_ratio(events.npho, events.npho_valid, vertex, geometry)

    def fit(events: EventBatch) -> FloatArray:
        return local_fit_recovery(events.npho, events.npho_valid, geometry)

    methods: dict[str, Fill] = {AVERAGE: average, SOLID_ANGLE: solid_angle}
    return {**methods, LOCAL_FIT: fit} if local_fit else methods


def gamma(geometry: Geometry) -> Estimate:
    """The conventional estimators of the gamma."""
    return lambda events: conventional_gamma(
        events.npho, events.time, events.npho_valid, events.time_valid, geometry
    )
