"""The experiment's event format: branch names, types and shapes of the tree `tree`.

All branches have a fixed size, so that C++ macros can read them with plain arrays. Sensors come in
the order of the channel id. `solid_angle` and `nDead`, which some files hold, are not read: the
first belongs to the geometry, the second repeats `dead`. Source: FACTS 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import N_CHANNELS

Columns = dict[str, NDArray[np.generic]]

TREE: Final = "tree"
META: Final = "xec_meta"  # a TObjString with one JSON object: where the file comes from


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch: numpy type code and shape of an entry (empty for a scalar)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    unit: str
    meaning: str

    @property
    def type(self) -> np.dtype[np.generic]:
        """Type of one entry, shape included."""
        return np.dtype((self.dtype, self.shape))


RUN: Final = Branch("run", "i4", (), "", "run number")
IDENTITY: Final = (
    RUN,
    Branch("event", "i4", (), "", "event number within the run"),
)
NPHO: Final = Branch("npho", "f4", (N_CHANNELS,), "photons", "photons at the sensor surface")
RELATIVE_TIME: Final = Branch(
    "relative_time", "f4", (N_CHANNELS,), "s", "time after a zero common to the event"
)
# The same times by their older name, before the event's earliest time was subtracted. Any common
# zero serves the reconstruction, so they are read as they are.
OLD_TIME: Final = Branch("time", "f4", (N_CHANNELS,), "s", "time after any common zero")
READINGS: Final = (NPHO, RELATIVE_TIME)

TRUTH: Final = (
    Branch("energyTruth", "f4", (), "GeV", "energy of the gamma"),
    Branch("timeTruth", "f4", (), "ns", "time of its conversion"),
    Branch("uvwTruth", "f4", (3,), "cm", "position of its conversion, u, v, w"),
    Branch("xyzTruth", "f4", (3,), "cm", "position of its conversion, x, y, z"),
    Branch("xyzVTX", "f4", (3,), "cm", "where it left the target"),
    Branch("emiVec", "f4", (3,), "", "unit vector of flight"),
    Branch("emiAng", "f4", (2,), "degrees", "direction of flight, theta and phi"),
)

DEAD: Final = Branch("dead", "?", (N_CHANNELS,), "", "sensors of the run's dead list")
N_DEAD: Final = Branch("nDead", "i4", (), "", "how many sensors are dead")
NPHO_REFERENCE: Final = Branch(
    "nphoTruth", "f4", (N_CHANNELS,), "photons", "what each sensor would have read if alive"
)

UNCONVERTIBLE: Final = {
    "nphe": "photoelectrons, which become photons only with each sensor's efficiency in that run",
    "relative_npho": "counts relative to a total that the file does not hold",
}
"""Older names of counts that cannot be turned into photons from the file alone, and why."""
