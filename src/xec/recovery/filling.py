"""Counts and times of an event's sensors by conventional means alone."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xec.detector.geometry import Geometry
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex
from xec.units import SPEED_OF_LIGHT_CM_PER_NS

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

LIGHT_INDEX: Final = 1.7
"""Effective refractive index of the scintillation light; see `xec.models.moments.FlightTime`."""


class Filling(NamedTuple):
    """Conventional counts and times of all sensors; NaN where the method knows nothing."""

    npho: NDArray[np.float64]  # (B, 4760) photons
    time: NDArray[np.float64]  # (B, 4760) ns


def fill(
    npho: Floats, time: Floats, npho_valid: BoolArray, time_valid: BoolArray, geometry: Geometry
) -> Filling:
    """Counts by the ratio of solid angles, times by the light's flight from its centre.

    The light starts at the mean of the measured times, each less the flight to its sensor and
    weighted with its light (FACTS 4 for the counts).

    Args:
        npho: (B, 4760) photons.
        time: (B, 4760) ns.
        npho_valid: (B, 4760); what stands elsewhere is not read.
        time_valid: (B, 4760), the same for the times.
        geometry: positions and normals of the sensors.
    """
    vertex = conventional_vertex(npho, npho_valid, geometry)
    counts = solid_angle_ratio(npho, npho_valid, vertex, geometry)
    away = geometry.position - vertex[:, None]
    flight = np.sqrt((away * away).sum(axis=2)) * (LIGHT_INDEX / SPEED_OF_LIGHT_CM_PER_NS)
    timed = time_valid & npho_valid
    weight = np.where(timed, npho, 0.0).clip(min=0.0).astype(np.float64)
    light = weight.sum(axis=1)
    light[light == 0] = np.nan
    start = (weight * (np.where(timed, time, 0.0) - flight)).sum(axis=1) / light
    return Filling(counts, start[:, None] + flight)
