"""The gamma by the conventional methods: what a network is compared with.

Light centre by the local fit, energy by a weighted sum of the light, position by a fit to the
nearest sensors, time by a weighted mean, direction from the target's centre to the position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xec.detector.coordinates import angles_from_direction, xyz_from_uvw
from xec.detector.geometry import Geometry
from xec.recovery.constants import GammaConstants, default_constants
from xec.recovery.energy import conventional_energy, face_light
from xec.recovery.gamma_time import conventional_time, time_hits
from xec.recovery.light_centre import light_centre
from xec.recovery.position import conventional_position, position_window

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ConventionalGamma:
    """Conventional estimates of B gammas; NaN where there is none."""

    uvw: NDArray[np.float64]  # (B, 3) cm, conversion
    energy: NDArray[np.float64]  # (B,) MeV
    gamma_time: NDArray[np.float64]  # (B,) ns, conversion, zero as in the input
    angle: NDArray[np.float64]  # (B, 2) degrees, theta and phi of the flight


def conventional_gamma(
    npho: Floats,
    time: Floats,
    npho_valid: BoolArray,
    time_valid: BoolArray,
    geometry: Geometry,
    constants: GammaConstants | None = None,
) -> ConventionalGamma:
    """Estimate each event's gamma; dead sensors are those whose valid bits are False.

    The flight is taken to start at the target's centre, as no track says where on it (FACTS 2).

    Args:
        npho: (B, 4760) photons; what stands where `npho_valid` is False is not read.
        time: (B, 4760) ns; read where both bits are True.
        npho_valid: (B, 4760).
        time_valid: (B, 4760).
        geometry: positions and normals of the sensors.
        constants: `default_constants`, if None.
    """
    constants = default_constants() if constants is None else constants
    wide = light_centre(npho, npho_valid, geometry).uvw
    near = light_centre(npho, npho_valid, geometry, position_window(wide[:, 2]))
    energy = conventional_energy(
        face_light(npho, npho_valid, wide, geometry), wide, constants.energy
    )
    hits = time_hits(npho, time, npho_valid, time_valid, wide, geometry)
    uvw = conventional_position(near, energy, constants.position)
    return ConventionalGamma(
        uvw=uvw,
        energy=energy,
        gamma_time=conventional_time(hits, wide, energy, constants.time),
        angle=np.asarray(angles_from_direction(xyz_from_uvw(uvw)), dtype=np.float64),
    )
