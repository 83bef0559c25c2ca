"""Which sensors are hidden from the methods, so that their answers can be compared with readings.

The three validation modes of FACTS 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import numpy as np

from xec.conditions.dead_list import DeadList
from xec.detector.channels import FACE_IDS, N_MPPC, Face
from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import Geometry
from xec.event import BoolArray, EventBatch, FloatArray, Truth
from xec.io.root_columns import EventChunk

INNER_MASKED: Final = 10
OTHER_MASKED: Final = 1

FRONT_ASIDE: Final = 0.5
"""cm; a sensor in front of the conversion is nearer than this in u and in v."""

FRONT_DEPTH: Final = 1.0
"""cm; the conversion is shallower than this."""


class Mode(StrEnum):
    """A way of masking."""

    PSEUDO = "pseudo"
    ARTIFICIAL = "artificial"
    FRONT = "front"


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Events without the readings that are asked for."""

    events: EventBatch
    asked: BoolArray  # (B, 4760) masked sensors whose reading is known
    reading: FloatArray  # (B, 4760) photons; to be read where `asked`

    def __len__(self) -> int:
        return len(self.events)


class Masking(Protocol):
    """Hides sensors of a chunk; events that do not serve the mode are left out."""

    def __call__(self, chunk: EventChunk) -> Masked:
        """The events to reconstruct, and what is asked about them."""
        ...


Lists = Callable[[EventBatch], BoolArray]
"""Dead sensors of each event, (B, 4760)."""


def fixed_list(dead: DeadList) -> Lists:
    """The same list for every event."""
    mask = dead.mask
    return lambda events: np.broadcast_to(mask, events.npho.shape)


def no_list(events: EventBatch) -> BoolArray:
    """Nothing is dead beyond what the file says."""
    return np.zeros(events.npho.shape, dtype=np.bool_)


def _readings(chunk: EventChunk) -> tuple[FloatArray, BoolArray]:
    """All readings that the file knows, also those of its dead sensors, and where."""
    npho, valid = chunk.events.npho, chunk.events.npho_valid
    if chunk.npho_reference is None:
        return npho, valid
    return np.where(valid, npho, chunk.npho_reference), np.ones_like(valid)


@dataclass(frozen=True, slots=True)
class Pseudo:
    """A dead list is applied; its sensors are asked for where the file knows their reading.

    Args:
        lists: the dead lists; None for the list that the file itself holds.
    """

    lists: Lists | None

    def __call__(self, chunk: EventChunk) -> Masked:
        """See `Masking`."""
        if self.lists is None:
            dead = np.zeros(chunk.events.npho.shape, np.bool_) if chunk.dead is None else chunk.dead
        else:
            dead = self.lists(chunk.events)
        reading, known = _readings(chunk)
        return Masked(chunk.events.with_dead(dead), dead & known, reading)


class Artificial:
    """In each event some live sensors are masked: 10 of the inner face, 1 of each other.

    Args:
        lists: sensors that are dead as well, and not asked for.
        seed: of the choice.
    """

    def __init__(self, lists: Lists, seed: int) -> None:
        self._lists = lists
        self._random = np.random.default_rng([seed, 1])

    def __call__(self, chunk: EventChunk) -> Masked:
        """See `Masking`."""
        events = chunk.events.with_dead(self._lists(chunk.events))
        asked = np.zeros(events.npho.shape, dtype=np.bool_)
        rank = np.where(events.npho_valid, self._random.random(asked.shape), np.inf)
        for face, ids in FACE_IDS.items():
            count = INNER_MASKED if face is Face.INNER else OTHER_MASKED
            first = np.argpartition(rank[:, ids], count, axis=1)[:, :count]
            np.put_along_axis(asked, ids[first], True, axis=1)
        asked &= events.npho_valid
        return Masked(events.with_dead(asked), asked, chunk.events.npho)


class Front:
    """The inner sensor in front of the conversion point is masked; other events are left out.

    Args:
        lists: sensors that are dead as well, and not asked for.
        geometry: positions of the sensors.
    """

    def __init__(self, lists: Lists, geometry: Geometry) -> None:
        self._lists = lists
        self._uv = uvw_from_xyz(geometry.position[:N_MPPC])[:, :2]

    def __call__(self, chunk: EventChunk) -> Masked:
        """See `Masking`; events without truth are left out."""
        events = chunk.events.with_dead(self._lists(chunk.events))
        asked = np.zeros(events.npho.shape, dtype=np.bool_)
        if events.truth is not None:
            uvw = events.truth.uvw.astype(np.float64)
            aside = np.abs(self._uv - uvw[:, None, :2]).max(axis=2)  # (B, 4092)
            shallow = (uvw[:, 2] > 0) & (uvw[:, 2] < FRONT_DEPTH)
            asked[:, :N_MPPC] = (aside < FRONT_ASIDE) & shallow[:, None]
            asked &= events.npho_valid
        rows = np.flatnonzero(asked.any(axis=1))
        chosen, asked = _take(events, rows), asked[rows]
        return Masked(chosen.with_dead(asked), asked, chunk.events.npho[rows])


def _take(events: EventBatch, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> EventBatch:
    """The events of these rows."""
    truth = events.truth
    if truth is not None:
        names = Truth.__dataclass_fields__
        truth = Truth(**{name: getattr(truth, name)[rows] for name in names})
    return EventBatch(
        events.run[rows],
        events.event[rows],
        events.npho[rows],
        events.time[rows],
        events.npho_valid[rows],
        events.time_valid[rows],
        truth,
    )
