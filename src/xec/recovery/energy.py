"""The energy of the gamma: the conventional estimate, a weighted sum of the light.

E is the sum over the faces of light x weight, dead sensors filled by their solid angles. The
weight of a kind of face (inner, outer, the two sides, the two lids) is a polynomial in the
centre of the light: even in u and v for inner and outer face; for sides and lids with odd terms
in the coordinate that leads towards the face, so that mirrored events have equal energies.

Of the forms tried on simulated events (one weight per face with a common correction, weights
with fewer and with more terms or with 1/w, and regressions of ln E) this one had the best
resolution for its number of constants; `benchmarks/conventional_constants.py` fits them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import FACE_IDS, Face
from xec.detector.coordinates import xyz_from_uvw
from xec.detector.geometry import Geometry
from xec.recovery.constants import EnergyConstants
from xec.recovery.least_squares import trimmed_least_squares
from xec.recovery.solid_angle import solid_angle_ratio

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

LIGHT_UNIT: Final = 5e4
"""Photons; the constants are MeV per this much light."""

U_UNIT: Final = 25.0
V_UNIT: Final = 70.0
W_UNIT: Final = 10.0
"""cm; with these the terms of the polynomials are of order one."""

EVEN_TERMS: Final = 9
ODD_TERMS: Final = 3


def face_light(
    npho: Floats, valid: BoolArray, centre: Floats, geometry: Geometry
) -> NDArray[np.float64]:
    """Light on each face (B, 6), in the order of `Face`, dead sensors filled.

    Args:
        npho: (B, 4760) photons; what stands where `valid` is False is not read.
        valid: (B, 4760).
        centre: (B, 3) centre of the light in u, v, w, cm.
        geometry: positions and normals of the sensors.

    Returns:
        photons; NaN where a dead sensor of the face has no live neighbour.
    """
    guess = solid_angle_ratio(npho, valid, xyz_from_uvw(centre), geometry)
    filled = np.where(valid, npho, guess)
    # `take` lays an event's sensors side by side; [:, ids] would not, and the order in which they
    # are added, so the last bits, would depend on the number of events.
    return np.stack([filled.take(FACE_IDS[face], axis=1).sum(axis=1) for face in Face], axis=1)


def _even(u: Floats, v: Floats, w: Floats) -> list[Floats]:
    square_u, square_v = u * u, v * v
    lateral = [square_u, square_v, square_u**2, square_v**2, w * square_u, w * square_v]
    return [np.ones_like(w), w, w * w, *lateral]


def _odd(towards: Floats, w: Floats) -> list[Floats]:
    return [towards, towards**3, towards * w]


def features(light: Floats, centre: Floats) -> NDArray[np.float64]:
    """What the constants multiply, (B, 9 + 9 + 12 + 12): inner, outer, sides, lids.

    Args:
        light: (B, 6) photons per face, from `face_light`.
        centre: (B, 3) centre of the light in u, v, w, cm.
    """
    by_face = dict(zip(Face, (light / LIGHT_UNIT).T, strict=True))
    u, v, w = (np.asarray(centre, dtype=np.float64) / [U_UNIT, V_UNIT, W_UNIT]).T
    even = _even(u, v, w)
    weights = {
        Face.INNER: even,
        Face.OUTER: even,
        Face.US: [*even, *_odd(-u, w)],
        Face.DS: [*even, *_odd(u, w)],
        Face.TOP: [*even, *_odd(v, w)],
        Face.BOTTOM: [*even, *_odd(-v, w)],
    }
    terms = {face: np.stack(weights[face], axis=1) * by_face[face][:, None] for face in Face}
    return np.concatenate(
        [
            terms[Face.INNER],
            terms[Face.OUTER],
            terms[Face.US] + terms[Face.DS],
            terms[Face.TOP] + terms[Face.BOTTOM],
        ],
        axis=1,
    )


def conventional_energy(
    light: Floats, centre: Floats, constants: EnergyConstants
) -> NDArray[np.float64]:
    """Energy (B,) in MeV; NaN where light or its centre is unknown.

    Args:
        light: (B, 6) photons per face, from `face_light`.
        centre: (B, 3) centre of the light in u, v, w, cm.
        constants: weights.
    """
    numbers = np.array([*constants.inner, *constants.outer, *constants.side, *constants.lid])
    # Sum by sum: a matrix product's last bits would depend on the other events.
    return np.asarray((features(light, centre) * numbers).sum(axis=1))


def fit_energy_weights(light: Floats, centre: Floats, energy: Floats) -> EnergyConstants:
    """Weights that minimise the squared relative error of the core.

    Args:
        light: (B, 6) photons per face, from `face_light`.
        centre: (B, 3) centre of the light in u, v, w, cm.
        energy: (B,) true energies, MeV.

    Raises:
        UsageError: too few events.
    """
    relative = features(light, centre) / np.asarray(energy)[:, None]
    numbers = trimmed_least_squares(relative, np.ones(len(relative)))
    ends = np.cumsum([EVEN_TERMS, EVEN_TERMS, EVEN_TERMS + ODD_TERMS]).tolist()
    inner, outer, side = ends
    return EnergyConstants(
        numbers[:inner], numbers[inner:outer], numbers[outer:side], numbers[side:]
    )
