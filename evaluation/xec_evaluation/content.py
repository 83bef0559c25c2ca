"""What an evaluation found: the content of the report, as plain values.

NaN stands for what cannot be said; it becomes null in JSON and a dash in the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

SCHEMA: Final = "xec-evaluation/1"

NETWORK: Final = "this network"
CONVENTIONAL: Final = "conventional"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of events that was read."""

    path: str
    events: int
    truth: bool
    synthetic: bool


@dataclass(frozen=True, slots=True)
class FillingRow:
    """Errors of one method on the masked sensors of one group, in photons, against the readings.

    Errors of mae, rmse and bias are bootstrap errors over events, and given for all sensors only.
    `noise` is the RMS of the readings' own noise, estimated from the readings.
    """

    method: str
    grouping: str  # all, face, light, dead neighbours
    group: str
    sensors: int
    missing: int  # sensors that the method could not fill
    mae: float
    rmse: float
    bias: float
    within68: float  # of |error|
    within95: float
    relative: float  # mean |error| / truth for truth >= 100 photons
    noise: float
    rmse_over_noise: float
    mae_error: float = math.nan
    rmse_error: float = math.nan
    bias_error: float = math.nan


@dataclass(frozen=True, slots=True)
class PullRow:
    """Whether the network's predicted standard deviations of a quantity are right."""

    quantity: str
    group: str
    count: int
    mean: float
    width68: float  # half of the central 68.27 % of the pulls
    rms: float
    coverage68: float  # of the intervals that are served, or else of the normal ones
    coverage95: float
    crps: float
    unit: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """Observed against expected coverage of the normal intervals of a quantity."""

    quantity: str
    expected: tuple[float, ...]
    observed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ResolutionRow:
    """Error of a signed quantity of the gamma, by one method, with bootstrap errors."""

    quantity: str
    unit: str
    method: str
    events: int
    bias: float
    bias_error: float
    sigma_eff: float
    sigma_eff_error: float
    sigma68: float
    sigma68_error: float
    within95: float
    within95_error: float


@dataclass(frozen=True, slots=True)
class DistanceRow:
    """A distance from the truth, which has no sign: quantiles with bootstrap errors."""

    quantity: str
    unit: str
    method: str
    events: int
    within68: float
    within68_error: float
    within95: float
    within95_error: float


@dataclass(frozen=True, slots=True)
class BinRow:
    """One bin of a resolution curve; `width` is sigma_eff, or 68 % of a distance."""

    axis: str
    axis_unit: str
    low: float
    high: float
    centre: float
    quantity: str
    unit: str
    method: str
    events: int
    bias: float
    bias_error: float
    width: float
    width_error: float
    coverage68: float = math.nan
    coverage95: float = math.nan


@dataclass(frozen=True, slots=True)
class WorstRow:
    """An event far off; `channel` is -1 where the gamma is meant and not a sensor."""

    path: str
    run: int
    event: int
    quantity: str
    unit: str
    channel: int
    truth: float
    estimate: float
    error: float
    pull: float


@dataclass(frozen=True, slots=True)
class CostRow:
    """What a method costs on this machine."""

    method: str
    events: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds > 0 else math.nan


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many of the rows that quantiles need were kept; means and RMSE use all of them."""

    kept: int
    seen: int


@dataclass(frozen=True, slots=True)
class SensorSample:
    """Normalised residuals of each method at the sampled sensors, binned for the pictures."""

    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]
    faces: Mapping[str, Mapping[str, tuple[float, ...]]]  # method, face: 2.5, 16, 50, 84, 97.5 %


@dataclass(frozen=True, slots=True)
class ErrorSample:
    """Distribution of the errors of one quantity of the gamma, per method."""

    quantity: str
    unit: str
    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that the report says."""

    synthetic: bool
    mode: str
    masking: str  # in words
    model: Mapping[str, str]
    data: tuple[DataFile, ...]
    events_read: int
    events_used: int
    masked_per_event: float
    seed: int
    notes: tuple[str, ...]
    noise_per_photon: Mapping[str, float]  # variance of a reading per photon
    sensors_sampled: Sampling
    events_sampled: Sampling
    filling: tuple[FillingRow, ...]
    pulls: tuple[PullRow, ...]
    calibration: tuple[Calibration, ...]
    sensors: SensorSample | None
    resolution: tuple[ResolutionRow, ...]
    distances: tuple[DistanceRow, ...]
    bins: tuple[BinRow, ...]
    errors: tuple[ErrorSample, ...]
    worst: tuple[WorstRow, ...]
    cost: tuple[CostRow, ...]
    software_version: str

    def as_json(self) -> dict[str, Any]:
        """The content for `report.json`; what is not a finite number is null."""
        content = {"schema": SCHEMA, **asdict(self)}
        content["cost"] = [{**asdict(row), "events_per_second": row.rate} for row in self.cost]
        return {name: _finite(value) for name, value in content.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
