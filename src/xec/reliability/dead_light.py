"""How much of an event's light is out of sight, and from where on a filling is not trusted.

What breaks a filling is not the share of the light on dead sensors: a fifth of all sensors dead
one by one is filled well. It is light in a hole: on dead inner sensors that have no live neighbour
in the grid around them. The threshold is measured (`xec_training.breakdown`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import INNER_GRID, N_CHANNELS, N_MPPC
from xec.reliability.checks import ascending, positive

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def blind(valid: BoolArray) -> BoolArray:
    """The inner sensors (4092,) that are dead together with all eight around them.

    Beyond the edge of the face there is nothing that could see the light either.

    Args:
        valid: (4760,) whether a sensor has a valid count.
    """
    return _each_way(_inner(~valid), True, np.logical_and).ravel()


def holes(valid: BoolArray) -> BoolArray:
    """The dead sensors (4760,) of the holes: the blind ones and the dead ones that touch them."""
    around = _each_way(blind(valid).reshape(INNER_GRID.shape), False, np.logical_or).ravel()
    found = np.zeros(N_CHANNELS, dtype=np.bool_)
    found[:N_MPPC] = around & ~valid[:N_MPPC]
    return found


def _inner(values: BoolArray) -> BoolArray:
    return values[:N_MPPC].reshape(INNER_GRID.shape)


def _each_way(grid: BoolArray, outside: bool, join: np.ufunc) -> BoolArray:
    """Each cell joined with its eight neighbours; `outside` stands beyond the edges."""
    rows, columns = grid.shape
    padded = np.full((rows + 2, columns + 2), outside)
    padded[1:-1, 1:-1] = grid
    upright = join(join(padded[:-2], padded[1:-1]), padded[2:])
    joined: BoolArray = join(join(upright[:, :-2], upright[:, 1:-1]), upright[:, 2:])
    return joined


def hidden_share(valid: BoolArray, npho_mean: NDArray[np.float32]) -> float:
    """Share of the predicted light that falls on blind sensors, from 0 to 1.

    Args:
        valid: (4760,) whether a sensor has a valid count.
        npho_mean: (4760,) photons that the model predicts.
    """
    out_of_sight = blind(valid)
    if not out_of_sight.any():
        return 0.0
    light = npho_mean.astype(np.float64).clip(min=0.0)
    total = light.sum()
    return float(light[:N_MPPC][out_of_sight].sum() / total) if total > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class DeadLight:
    """From where on holes are filled conventionally, and how well that does.

    Args:
        threshold: share of the light on blind sensors beyond which the network is not trusted.
        light: (K,) photons, ascending: knots of the conventional method's answer.
        sigma: (K,) photons, its error there, as measured in holes.
        time_sigma: ns, error of the conventional time there.
    """

    threshold: float
    light: FloatArray
    sigma: FloatArray
    time_sigma: float

    def is_too_much(self, share: float) -> bool:
        """Whether so large a share (`hidden_share`) forbids the network's filling."""
        return share > self.threshold

    def sigma_of(self, light: FloatArray) -> FloatArray:
        """Standard deviation (n,) of the conventional answers `light` (n,), photons.

        Beyond the brightest knot it grows in proportion to the light.
        """
        inside = np.interp(light, self.light, self.sigma)
        return np.asarray(inside * np.maximum(light / self.light[-1], 1.0))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            ValueError, KeyError, TypeError: when it is none.
        """
        light, sigma = ascending(record["light"], "light"), positive(record["sigma"], "sigma")
        if light.shape != sigma.shape or len(light) == 0 or light[-1] <= 0:
            raise ValueError("light and sigma do not fit each other")
        return cls(
            float(positive(record["threshold"], "threshold")),
            light,
            sigma,
            float(positive(record["time_sigma"], "time_sigma")),
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "threshold": self.threshold,
            "light": self.light.tolist(),
            "sigma": self.sigma.tolist(),
            "time_sigma": self.time_sigma,
        }
