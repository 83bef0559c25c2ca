"""Where the light of each event comes from: the local fit, and a weighted mean where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import Geometry
from xec.recovery.local_fit import WINDOW_RADIUS, local_fit
from xec.recovery.vertex import conventional_vertex

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class LightCentre:
    """Centres of the light of B events, behind the conversions."""

    uvw: NDArray[np.float64]  # (B, 3) cm; NaN where no live inner sensor has light
    fitted: BoolArray  # (B,) by the local fit; the others by `conventional_vertex`


def light_centre(
    npho: Floats,
    valid: BoolArray,
    geometry: Geometry,
    radius: float | Floats = WINDOW_RADIUS,
) -> LightCentre:
    """Centre of the light of each event.

    Args:
        npho: (B, 4760) photons; what stands where `valid` is False is not read.
        valid: (B, 4760).
        geometry: positions and normals of the sensors.
        radius: of the local fit's window, cm; one, or one per event (B,).
    """
    fit = local_fit(npho, valid, geometry, radius)
    return LightCentre(
        np.where(fit.valid[:, None], fit.uvw, mean_centre(npho, valid, geometry)), fit.valid
    )


def mean_centre(npho: Floats, valid: BoolArray, geometry: Geometry) -> NDArray[np.float64]:
    """u, v, w (B, 3) in cm of `conventional_vertex`; arguments as in `light_centre`."""
    vertex = conventional_vertex(npho, valid, geometry)
    return np.asarray(uvw_from_xyz(vertex), dtype=np.float64)
