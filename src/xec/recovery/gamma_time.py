"""When the gamma converted: the conventional estimate, a weighted mean of corrected times.

A sensor at distance d from the centre of the light fires at

    t = t_gamma + c0 + c1 w + c2 ln(E / 52.8 MeV) + (MPPC: s d | PMT: delay + s' d),

where the slownesses s are larger than n/c, since scattered light makes a detour and the light's
centre lies behind the conversion. The mean of t_i - (what follows t_gamma) has the weights
1 / (a^2 / npe + b^2); times more than three standard deviations from it are left out once.
The constants are fitted on simulated events (`benchmarks/conventional_constants.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import IS_MPPC
from xec.detector.coordinates import xyz_from_uvw
from xec.detector.geometry import Geometry
from xec.recovery.constants import TimeConstants
from xec.recovery.least_squares import trimmed_least_squares
from xec.recovery.local_fit import MPPC_EFFICIENCY
from xec.recovery.position import log_energy

Floats = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

PMT_EFFICIENCY: Final = 0.16
"""Photoelectrons per photon (FACTS 4)."""

MIN_PHOTOELECTRONS: Final = 20.0
"""A time needs as many; where no sensor has them, the brightest counts. On simulated events the
resolution was better with 20 than with 30, 50 or 100."""

TIME_PER_PHOTOELECTRON: Final = 3.0
TIME_FLOOR: Final = 0.08
"""ns; spread of a time: the first over sqrt(npe), and the second in quadrature (as simulated)."""

OUTLIER: Final = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class TimeHits:
    """The K times of a batch that count, event after event."""

    event: NDArray[np.int64]  # (K,) row of the batch
    time: NDArray[np.float64]  # (K,) ns
    weight: NDArray[np.float64]  # (K,) 1/ns^2
    is_mppc: BoolArray  # (K,)
    distance: NDArray[np.float64]  # (K,) cm, from the centre of the light


def time_hits(
    npho: Floats,
    time: Floats,
    npho_valid: BoolArray,
    time_valid: BoolArray,
    centre: Floats,
    geometry: Geometry,
) -> TimeHits:
    """The times that count; arguments as in `conventional_gamma`, `centre` (B, 3) in u, v, w, cm.

    Nothing is read where a valid bit is False.
    """
    efficiency = np.where(IS_MPPC, MPPC_EFFICIENCY, PMT_EFFICIENCY)
    npe = np.where(npho_valid & time_valid, npho, 0.0) * efficiency
    needed = npe.max(axis=1, keepdims=True).clip(max=MIN_PHOTOELECTRONS)
    known = np.isfinite(centre).all(axis=1, keepdims=True)
    event, sensor = np.nonzero((npe >= needed) & (npe > 0) & known)
    offset = xyz_from_uvw(centre)[event] - geometry.position[sensor]
    variance = TIME_PER_PHOTOELECTRON**2 / npe[event, sensor] + TIME_FLOOR**2
    return TimeHits(
        event,
        np.asarray(time[event, sensor], dtype=np.float64),
        1 / variance,
        IS_MPPC[sensor],
        np.sqrt((offset**2).sum(axis=1)),
    )


def features(hits: TimeHits, centre: Floats, energy: Floats) -> NDArray[np.float64]:
    """What the constants multiply, (K, 6): three of the event, PMT or not, two distances."""
    depth, log = np.asarray(centre)[hits.event, 2], log_energy(energy)[hits.event]
    pmt = ~hits.is_mppc
    columns = [
        np.ones_like(depth),
        depth,
        log,
        pmt,
        hits.is_mppc * hits.distance,
        pmt * hits.distance,
    ]
    return np.stack(columns, axis=1)


def conventional_time(
    hits: TimeHits, centre: Floats, energy: Floats, constants: TimeConstants
) -> NDArray[np.float64]:
    """Time of the conversion (B,) in ns, zero as in the input; NaN where no time counts.

    Args:
        hits: from `time_hits`.
        centre: (B, 3) centre of the light in u, v, w, cm.
        energy: (B,) MeV, the conventional one; NaN counts as the signal's.
        constants: of the sensors' lateness.
    """
    numbers = np.array(
        [
            *constants.event,
            constants.pmt_delay,
            constants.mppc_slowness,
            constants.pmt_slowness,
        ]
    )
    time = hits.time - (features(hits, centre, energy) * numbers).sum(axis=1)
    first = _weighted_mean(hits.event, time, hits.weight, len(centre))
    near = np.abs(time - first[hits.event]) * np.sqrt(hits.weight) <= OUTLIER
    second = _weighted_mean(hits.event, time, hits.weight * near, len(centre))
    return np.where(np.isnan(second), first, second)


def _weighted_mean(
    event: NDArray[np.int64], time: Floats, weight: Floats, events: int
) -> NDArray[np.float64]:
    """Mean time (events,) of each event; NaN where nothing has weight."""
    total = np.bincount(event, weight, events)
    mean = np.full(events, np.nan)
    np.divide(np.bincount(event, weight * time, events), total, out=mean, where=total > 0)
    return mean


def fit_time_constants(
    hits: TimeHits, centre: Floats, energy: Floats, gamma_time: Floats
) -> TimeConstants:
    """Lateness of the sensors by least squares, every time weighted with its variance.

    Args:
        hits: from `time_hits`.
        centre: (B, 3) centre of the light in u, v, w, cm.
        energy: (B,) MeV, the conventional one.
        gamma_time: (B,) true times of the conversions, ns.

    Raises:
        UsageError: too few times.
    """
    root = np.sqrt(hits.weight)
    late = (hits.time - np.asarray(gamma_time)[hits.event]) * root
    numbers = trimmed_least_squares(features(hits, centre, energy) * root[:, None], late)
    return TimeConstants(numbers[:3], *numbers[3:])
