"""Split-conformal intervals: by how much to multiply a sigma for a coverage that holds.

Within a bin the factor is constant, so that the guarantee of split-conformal prediction holds in
each of them (Mondrian; Angelopoulos and Bates, arXiv:2107.07511, section 4): bins of the depth
that the model itself predicts for the gamma, of the face's kind and the predicted light for
sensors. How the factors are measured is in `xec_training.conformal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xec.contract import GAMMA_ESTIMATES, SENSOR_ESTIMATES
from xec.reliability.checks import ascending, positive

FloatArray = NDArray[np.float64]

LEVELS: Final = (0.6827, 0.95)
"""Coverages of the intervals: one standard deviation of a normal distribution, and 95 %."""

KINDS: Final = ("inner", "pmt")
"""Sensors of the inner face (MPPCs), and those of the other five."""


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """Half widths of the intervals in units of sigma.

    Args:
        depth_edges: (D - 1,) cm, ascending, between D bins of predicted depth.
        gamma: per gamma estimate of the contract (levels, D, width).
        light_edges: (L - 1,) photons, ascending, between L bins of predicted light.
        sensors: per sensor estimate of the contract (levels, kinds, L).
    """

    depth_edges: FloatArray
    gamma: Mapping[str, FloatArray]
    light_edges: FloatArray
    sensors: Mapping[str, FloatArray]

    def gamma_scale(self, name: str, depth: float, level: float = LEVELS[0]) -> FloatArray | None:
        """Factors (width,) of a gamma estimate's sigma; None where they were not measured.

        Args:
            name: of the estimate, such as `uvw`.
            depth: that the model predicts, cm.
            level: one of `LEVELS`.
        """
        factors = self.gamma.get(name)
        if factors is None:
            return None
        place = int(np.searchsorted(self.depth_edges, depth, side="right"))
        return np.asarray(factors[LEVELS.index(level), place])

    def sensor_scale(
        self, name: str, light: ArrayLike, is_mppc: ArrayLike, level: float = LEVELS[0]
    ) -> FloatArray | None:
        """Factors (n,) of a sensor estimate's sigma; None where they were not measured.

        Args:
            name: `npho` or `time`.
            light: that the model predicts, photons, (n,).
            is_mppc: whether the sensor is on the inner face, (n,).
            level: one of `LEVELS`.
        """
        factors = self.sensors.get(name)
        if factors is None:
            return None
        kind = np.where(np.asarray(is_mppc), 0, 1)
        place = np.searchsorted(self.light_edges, np.asarray(light), side="right")
        return np.asarray(factors[LEVELS.index(level)][kind, place])

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            ValueError, KeyError, TypeError: when it is none.
        """
        if tuple(record["levels"]) != LEVELS:
            raise ValueError(f"its levels are {record['levels']}, not {list(LEVELS)}")
        depth = ascending(record["depth_edges"], "depth_edges")
        light = ascending(record["light_edges"], "light_edges")
        widths = {e.name: e.width for e in GAMMA_ESTIMATES}
        gamma = {
            name: _shaped(values, name, (len(LEVELS), len(depth) + 1, widths[name]))
            for name, values in record["gamma"].items()
        }
        known = {e.name for e in SENSOR_ESTIMATES}
        sensors = {
            name: _shaped(values, name, (len(LEVELS), len(KINDS), len(light) + 1))
            for name, values in record["sensors"].items()
            if name in known
        }
        return cls(depth, gamma, light, sensors)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "levels": list(LEVELS),
            "depth_edges": self.depth_edges.tolist(),
            "gamma": {name: values.tolist() for name, values in self.gamma.items()},
            "light_edges": self.light_edges.tolist(),
            "sensors": {name: values.tolist() for name, values in self.sensors.items()},
        }


def _shaped(values: Any, name: str, shape: tuple[int, ...]) -> FloatArray:
    array = positive(values, name)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, not {shape}")
    return array
