"""Events and their reconstructions, as arrays of many or one at a time.

`EventBatch` and `ReconstructionBatch` hold B events as arrays of shape (B, ...); `Event` and
`Reconstruction` hold one. No marker value (1e10, NaN, -999) is ever a number in here: what is
missing is missing by its validity bit, and its stored value is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from typing import Self

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import N_CHANNELS
from xec.errors import InvalidEvent
from xec.lineage import Provenance

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the simulation knows about B gammas; every field has B rows.

    Units: MeV, ns (same zero as `EventBatch.time`), cm (global u, v, w and x, y, z), degrees.
    """

    energy: FloatArray  # (B,) MeV
    gamma_time: FloatArray  # (B,) ns
    uvw: FloatArray  # (B, 3) cm, first interaction
    xyz: FloatArray  # (B, 3) cm, first interaction
    vertex: FloatArray  # (B, 3) cm, on the target
    direction: FloatArray  # (B, 3) unit vector of flight
    angle: FloatArray  # (B, 2) degrees, theta and phi

    def __len__(self) -> int:
        return len(self.energy)

    def __getitem__(self, rows: slice) -> Truth:
        return Truth(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event: counts and times of all sensors.

    Invalid readings hold 0 and a False validity bit.
    """

    run: int
    event: int
    npho: FloatArray  # (4760,) photons
    time: FloatArray  # (4760,) ns
    npho_valid: BoolArray  # (4760,)
    time_valid: BoolArray  # (4760,)


@dataclass(frozen=True, slots=True, eq=False)
class EventBatch:
    """B events side by side; `truth` is there for simulated events only."""

    run: IntArray  # (B,)
    event: IntArray  # (B,)
    npho: FloatArray  # (B, 4760) photons
    time: FloatArray  # (B, 4760) ns
    npho_valid: BoolArray  # (B, 4760)
    time_valid: BoolArray  # (B, 4760)
    truth: Truth | None = None

    def __post_init__(self) -> None:
        B = len(self.run)
        for name in ("npho", "time", "npho_valid", "time_valid"):
            shape = getattr(self, name).shape
            if shape != (B, N_CHANNELS):
                raise InvalidEvent(f"{name} has shape {shape}, not ({B}, {N_CHANNELS}).")

    def __len__(self) -> int:
        return len(self.run)

    def __getitem__(self, rows: slice) -> EventBatch:
        return EventBatch(
            self.run[rows],
            self.event[rows],
            self.npho[rows],
            self.time[rows],
            self.npho_valid[rows],
            self.time_valid[rows],
            None if self.truth is None else self.truth[rows],
        )

    def __iter__(self) -> Iterator[Event]:
        for row in range(len(self)):
            yield Event(
                int(self.run[row]),
                int(self.event[row]),
                self.npho[row],
                self.time[row],
                self.npho_valid[row],
                self.time_valid[row],
            )

    @classmethod
    def stack(cls, events: Sequence[Event]) -> Self:
        """Put single events side by side (no truth)."""
        return cls(
            np.array([e.run for e in events], dtype=np.int64),
            np.array([e.event for e in events], dtype=np.int64),
            np.stack([e.npho for e in events]),
            np.stack([e.time for e in events]),
            np.stack([e.npho_valid for e in events]),
            np.stack([e.time_valid for e in events]),
        )

    def with_dead(self, dead: BoolArray) -> EventBatch:
        """The same events with the sensors of `dead` (4760,) or (B, 4760) taken out."""
        live = ~dead
        return EventBatch(
            self.run,
            self.event,
            np.where(live, self.npho, np.float32(0)),
            np.where(live, self.time, np.float32(0)),
            self.npho_valid & live,
            self.time_valid & live,
            self.truth,
        )


class RecoveryStatus(IntEnum):
    """How a sensor without a valid count was filled."""

    INPAINTED = 1  # by the network
    BASELINE = 2  # by a conventional method
    REFUSED = 3  # not filled


class Flag(IntFlag):
    """What a user should know before using a reconstruction."""

    NONE = 0
    OUTSIDE_FIDUCIAL = 1
    OUTSIDE_DOMAIN = 2
    TOO_MUCH_DEAD_LIGHT = 4


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """The K sensors of one event that had no valid count, filled."""

    channel: NDArray[np.int32]  # (K,)
    npho: FloatArray  # (K,) photons
    npho_sigma: FloatArray
    time: FloatArray  # (K,) ns
    time_sigma: FloatArray
    status: NDArray[np.uint8]  # RecoveryStatus

    def __len__(self) -> int:
        return len(self.channel)


@dataclass(frozen=True, slots=True, eq=False)
class GammaEstimate:
    """One regressed quantity: mean, standard deviation and a 68 % interval, each (width,)."""

    mean: FloatArray
    sigma: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """The answer for one event; field names follow `xec.contract`."""

    run: int
    event: int
    energy: GammaEstimate  # (1,) MeV
    gamma_time: GammaEstimate  # (1,) ns
    uvw: GammaEstimate  # (3,) cm
    angle: GammaEstimate  # (2,) degrees
    recovered: Recovered
    flags: Flag
    provenance: Provenance
