"""Where the gamma converted: the conventional estimate.

The light's centre lies behind the first conversion, by the depth of the shower, which grows with
the logarithm of the energy. Linear corrections go back: with L = ln(E / 52.8 MeV),

    u = u_light (a0 + a1 w_light + a2 L),    v likewise,
    w = b0 + b1 w_light + L (b2 + b3 w_light).

u and v change sign with their mirrors and so have no constant term. The constants are fitted on
simulated events (`benchmarks/conventional_constants.py`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.geometry import INNER_Z_PITCH
from xec.recovery.constants import SIGNAL_ENERGY, Correction, PositionConstants
from xec.recovery.least_squares import trimmed_least_squares
from xec.recovery.light_centre import LightCentre
from xec.recovery.local_fit import WINDOW_RADIUS

Floats = NDArray[np.floating[Any]]

MIN_WINDOW: Final = 3.5 * INNER_Z_PITCH
"""cm; less holds too few sensors."""

MIN_ENERGY: Final = 1.0
"""MeV; below this the logarithm is that of 1 MeV."""


def position_window(depth: Floats) -> NDArray[np.float64]:
    """Radius (B,) in cm of the fit that finds the position: as wide as the light is deep.

    The nearest sensors see most of the shower's front, but light from deep inside lights all
    alike. On simulated events this gave better u, v and w than any fixed radius.

    Args:
        depth: (B,) of the light, from the fit with `WINDOW_RADIUS`, cm.
    """
    return np.asarray(depth, dtype=np.float64).clip(MIN_WINDOW, WINDOW_RADIUS)


def log_energy(energy: Floats) -> NDArray[np.float64]:
    """ln(E / 52.8 MeV) (B,); 0 where the energy is unknown (NaN)."""
    logarithm = np.log(energy.clip(min=MIN_ENERGY) / SIGNAL_ENERGY)
    return np.where(np.isnan(energy), 0.0, logarithm)


def features(uvw: Floats, energy: Floats) -> tuple[NDArray[np.float64], ...]:
    """What the constants of u, v and w multiply: (B, 3), (B, 3) and (B, 4).

    Args:
        uvw: (B, 3) centre of the light, cm.
        energy: (B,) MeV.
    """
    u, v, w = np.asarray(uvw, dtype=np.float64).T
    log = log_energy(energy)
    lateral = np.stack([np.ones_like(w), w, log], axis=1)
    depth = np.stack([np.ones_like(w), w, log, log * w], axis=1)
    return u[:, None] * lateral, v[:, None] * lateral, depth


def conventional_position(
    centre: LightCentre, energy: Floats, constants: PositionConstants
) -> NDArray[np.float64]:
    """Conversion u, v, w (B, 3) in cm; NaN where the centre of the light is unknown.

    Args:
        centre: of the light, with the window `position_window`.
        energy: (B,) MeV, the conventional one; NaN counts as the signal's.
        constants: of the corrections.
    """
    fitted, mean = (_corrected(centre.uvw, energy, way) for way in (constants.fit, constants.mean))
    return np.where(centre.fitted[:, None], fitted, mean)


def _corrected(uvw: Floats, energy: Floats, correction: Correction) -> NDArray[np.float64]:
    coefficients = (correction.u, correction.v, correction.w)
    columns = [
        # Sum by sum: a matrix product's last bits would depend on the other events.
        (values * np.array(numbers)).sum(axis=1)
        for values, numbers in zip(features(uvw, energy), coefficients, strict=True)
    ]
    return np.stack(columns, axis=1)


def fit_position_correction(uvw: Floats, energy: Floats, truth: Floats) -> Correction:
    """Correction for one way to find the light's centre, by least squares on the core.

    Args:
        uvw: (B, 3) centres of the light, cm; NaN is left out.
        energy: (B,) MeV, the conventional one.
        truth: (B, 3) conversion u, v, w, cm.

    Raises:
        UsageError: too few events.
    """
    u, v, w = (
        trimmed_least_squares(values, np.asarray(truth[:, column], dtype=np.float64))
        for column, values in enumerate(features(uvw, energy))
    )
    return Correction(u, v, w)
