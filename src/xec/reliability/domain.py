"""Whether an event looks like those of the training: a score from inputs and outputs.

A handful of physical features, each measured from the median of events like the training's in
units of its distance to their 99.5 % quantile; the score is the largest. Only one side counts: an
event that the model explains unusually well is no reason for a warning. Computed event by event
in double precision, so that the score does not depend on what else is in a batch, nor on where it
is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from xec.contract import MIN_PHOTONS_FOR_TIME
from xec.detector.channels import INNER_GRID, N_MPPC
from xec.detector.coordinates import uvw_from_xyz, xyz_from_uvw
from xec.detector.geometry import Geometry
from xec.event import Event
from xec.reliability.checks import finite, positive
from xec.units import SPEED_OF_LIGHT_CM_PER_NS

FloatArray = NDArray[np.float64]
Outputs = Mapping[str, NDArray[np.float32]]

FEATURES: Final = (
    "chi_squared",  # of all live sensors' counts against the prediction
    "bright_chi_squared",  # of those with light
    "time_spread",  # of the times less the light's flight: a second gamma comes at another time
    "dead_sensors",  # their number
    "dead_in_front",  # their share among the sensors around the predicted position
)

FEATURE_QUANTILE: Final = 0.995
"""At which quantile of held-out events a feature counts one."""

LIGHT_INDEX: Final = 1.7
"""Effective refractive index of the scintillation light; see `xec.models.moments.FlightTime`."""

BRIGHT: Final = 10.0  # photons predicted
PRIOR: Final = 1.0  # sensors with a pull of one, which steady the mean of a few
SPREAD_FLOOR: Final = 0.01  # ns
REACH: Final = 2  # sensors to each side of the one in front: 5 x 5 of them


class Score(NamedTuple):
    """How unlike the training an event is, and which feature says so."""

    value: float
    feature: str


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """The score and its threshold.

    Args:
        centre: median of each feature over events like the training's, in the order of `FEATURES`.
        scale: distance of the upper quantile from it, positive.
        threshold: beyond this score an event is outside the domain.
    """

    centre: FloatArray
    scale: FloatArray
    threshold: float

    @classmethod
    def fit(cls, features: FloatArray, quantile: float = 0.99) -> Self:
        """From events of the domain.

        Args:
            features: (n, features), as `features_of` gives them; a hundred events at least.
            quantile: of the score, beyond which the events count as outside: one minus the rate
                of false alarms.
        """
        centre = np.median(features, axis=0)
        upper = np.quantile(features, FEATURE_QUANTILE, axis=0)
        scale = np.maximum(upper - centre, 1e-6)
        scores = ((features - centre) / scale).max(axis=1)
        return cls(centre, scale, float(np.quantile(scores, quantile)))

    def score(self, features: FloatArray) -> Score:
        """The largest of the features (features,), on the scale of the domain."""
        distance = (features - self.centre) / self.scale
        largest = int(distance.argmax())
        return Score(float(distance[largest]), FEATURES[largest])

    def is_outside(self, features: FloatArray) -> bool:
        """Whether the event with these features (features,) is unlike those of the training."""
        return not self.score(features).value <= self.threshold

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            ValueError, KeyError, TypeError: when it is none.
        """
        if tuple(record["features"]) != FEATURES:
            raise ValueError("its features are others than this program's")
        centre, scale = finite(record["centre"], "centre"), positive(record["scale"], "scale")
        if not centre.shape == scale.shape == (len(FEATURES),):
            raise ValueError("centre and scale do not fit the features")
        return cls(centre, scale, float(finite(record["threshold"], "threshold")))

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "features": list(FEATURES),
            "centre": self.centre.tolist(),
            "scale": self.scale.tolist(),
            "threshold": self.threshold,
        }


def features_of(event: Event, outputs: Outputs, row: int, geometry: Geometry) -> FloatArray:
    """The features (features,) of one event.

    Args:
        event: as it was given to the model.
        outputs: tensors of the contract, each (B, width).
        row: which of the B rows belongs to `event`.
        geometry: positions of the sensors.
    """
    valid = event.npho_valid
    mean = outputs["npho_mean"][row][valid].astype(np.float64)
    square = event.npho[valid] - mean
    square /= outputs["npho_sigma"][row][valid]
    square *= square
    uvw = outputs["uvw"][row].astype(np.float64)
    return np.array(
        [
            _log_mean(square),
            _log_mean(square[mean > BRIGHT]),
            _log_time_spread(event, uvw, geometry),
            np.log1p(np.count_nonzero(~valid)),
            _dead_in_front(valid, uvw, geometry),
        ]
    )


def _log_mean(square: FloatArray) -> float:
    return float(np.log((square.sum() + PRIOR) / (len(square) + PRIOR)))


def _log_time_spread(event: Event, uvw: FloatArray, geometry: Geometry) -> float:
    """Logarithm of the spread in ns of the times, each less the light's flight, by light."""
    timed = np.flatnonzero(event.time_valid & (event.npho > MIN_PHOTONS_FOR_TIME))
    if len(timed) < 2:
        return float(np.log(SPREAD_FLOOR))
    away = _places(geometry).take(timed, axis=1) - xyz_from_uvw(uvw)[:, None]
    flight = np.sqrt((away * away).sum(axis=0)) * (LIGHT_INDEX / SPEED_OF_LIGHT_CM_PER_NS)
    start = event.time.take(timed) - flight
    weight = event.npho.take(timed).astype(np.float64)
    weight /= weight.sum()
    residual = start - (weight * start).sum()
    return float(np.log(np.sqrt((weight * residual * residual).sum()) + SPREAD_FLOOR))


def _dead_in_front(valid: NDArray[np.bool_], uvw: FloatArray, geometry: Geometry) -> float:
    """Share of dead sensors among the 5 x 5 of the inner face around the predicted position."""
    away = _inner_places(geometry) - uvw[:2, None]
    away *= away
    nearest = int(np.argmin(away[0] + away[1]))
    r, c = divmod(nearest, INNER_GRID.shape[1])
    rows, columns = slice(max(r - REACH, 0), r + REACH + 1), slice(max(c - REACH, 0), c + REACH + 1)
    around = valid[:N_MPPC].reshape(INNER_GRID.shape)[rows, columns]
    return 1.0 - np.count_nonzero(around) / around.size


@lru_cache(maxsize=4)
def _places(geometry: Geometry) -> FloatArray:
    """Coordinates (3, 4760) of all sensors, each in one piece of memory."""
    return np.ascontiguousarray(geometry.position.T)


@lru_cache(maxsize=4)
def _inner_places(geometry: Geometry) -> FloatArray:
    """U and v (2, 4092) of the inner sensors."""
    return np.ascontiguousarray(uvw_from_xyz(geometry.position[:N_MPPC])[:, :2].T)
