"""The quantities of the gamma, and how an estimate differs from the truth in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.contract import GAMMA_ESTIMATES
from xec.detector.coordinates import direction_from_angles, xyz_from_uvw

FloatArray = NDArray[np.float64]

COMPONENTS: Final = ("energy", "gamma_time", "u", "v", "w", "theta", "phi")
"""What is estimated, in the order of a row of estimates."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something whose error is studied; a distance has no sign."""

    name: str
    label: str
    unit: str
    signed: bool = True


QUANTITIES: Final = (
    Quantity("energy", "energy", "MeV"),
    Quantity("relative_energy", "energy, relative", "%"),
    Quantity("gamma_time", "time", "ns"),
    Quantity("u", "u", "cm"),
    Quantity("v", "v", "cm"),
    Quantity("w", "w (depth)", "cm"),
    Quantity("theta", "θ", "degrees"),
    Quantity("phi", "φ", "degrees"),
    Quantity("distance", "distance of the position", "cm", signed=False),
    Quantity("opening_angle", "angle between the directions", "degrees", signed=False),
)


@dataclass(frozen=True, slots=True)
class Axis:
    """What resolution is looked at against."""

    name: str
    label: str
    unit: str
    edges: tuple[float, ...]


def _steps(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(float(edge) for edge in np.linspace(first, last, count + 1))


AXES: Final = (
    Axis("energy", "energy", "MeV", _steps(5, 75, 14)),
    Axis("w", "w (depth)", "cm", (0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 30, 42)),
    Axis("u", "u", "cm", _steps(-24, 24, 8)),
    Axis("v", "v", "cm", _steps(-68, 68, 8)),
    Axis("theta", "θ", "degrees", _steps(60, 120, 12)),
    Axis("phi", "φ", "degrees", _steps(-70, 70, 10)),
)


def stacked(source: Any, suffix: str = "") -> FloatArray:
    """Energy, time, position and direction of B gammas as rows (B, 7).

    Args:
        source: has the contract's estimates as attributes or as entries.
        suffix: of their names, such as ``_sigma``.
    """
    parts = []
    for estimate in GAMMA_ESTIMATES:
        name = estimate.name + suffix
        values = source[name] if isinstance(source, Mapping) else getattr(source, name)
        values = np.asarray(values, dtype=np.float64)
        parts.append(values.reshape(len(values), estimate.width))
    return np.concatenate(parts, axis=1)


def errors(estimate: FloatArray, truth: FloatArray) -> dict[str, FloatArray]:
    """Errors (B,) of every quantity, from rows (B, 7) of estimates and of the truth."""
    difference = estimate - truth
    difference[:, 6] = (difference[:, 6] + 180.0) % 360.0 - 180.0
    found = {name: difference[:, place] for place, name in enumerate(COMPONENTS)}
    found["relative_energy"] = 100.0 * difference[:, 0] / truth[:, 0]
    apart = xyz_from_uvw(estimate[:, 2:5]) - xyz_from_uvw(truth[:, 2:5])
    found["distance"] = np.linalg.norm(apart, axis=1)
    found["opening_angle"] = _opening(estimate[:, 5:], truth[:, 5:])
    return found


def _opening(first: FloatArray, second: FloatArray) -> FloatArray:
    """Angle (B,) in degrees between directions theta, phi (B, 2).

    From the chord: an arccosine would lose small angles to rounding.
    """
    chord = np.linalg.norm(direction_from_angles(first) - direction_from_angles(second), axis=1)
    return np.asarray(np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1.0))))
