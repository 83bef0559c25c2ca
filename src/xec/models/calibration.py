"""Scale factors of the sigmas, measured on held-out events and applied inside the graph.

After METHODS, "Uncertainty that can be trusted", 2: a factor per task, times curves of what the
network itself predicts: of the gamma's depth and of its distance from the middle in u and v, and
of the light of a sensor. How they are measured is in `xec_training.calibrate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xec.contract import ESTIMATES, GAMMA_ESTIMATES, SENSOR_ESTIMATES
from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.errors import ModelError
from xec.reliability.checks import ascending, positive

WIDTHS: Final = {e.sigma_name: 1 if e.width == N_CHANNELS else e.width for e in ESTIMATES}
GAMMA_WIDTHS: Final = {e.sigma_name: e.width for e in GAMMA_ESTIMATES}

GAMMA_AXES: Final = ("depth", "u", "v")
"""Predicted w, |u| and |v| in cm; columns are the components of the gamma estimates in order."""

SENSOR_AXES: Final = ("inner", "pmt")
"""ln(1 + predicted photons) per kind of sensor; columns are `npho` and `time`."""

COLUMNS: Final = {
    **dict.fromkeys(GAMMA_AXES, sum(GAMMA_WIDTHS.values())),
    **dict.fromkeys(SENSOR_AXES, len(SENSOR_ESTIMATES)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Positive factors at knots, linear between them and constant beyond them.

    Args:
        knots: (K,) ascending.
        factors: (K, C), one column per quantity.
    """

    knots: NDArray[np.float64]
    factors: NDArray[np.float64]

    def at(self, x: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The factors (n, C) at x (n,)."""
        columns = [np.interp(x, self.knots, column) for column in self.factors.T]
        return np.stack(columns, axis=-1)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], columns: int) -> Self:
        """The inverse of `as_dict`.

        Raises:
            ValueError, KeyError, TypeError: when it is none.
        """
        knots = ascending(record["knots"], "knots")
        factors = positive(record["factors"], "factors")
        if len(knots) == 0 or factors.shape != (len(knots), columns):
            raise ValueError(f"factors have shape {factors.shape}, not ({len(knots)}, {columns})")
        return cls(knots, factors)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"knots": self.knots.tolist(), "factors": self.factors.tolist()}


Curves = Mapping[str, Curve]
"""By axis, see `GAMMA_AXES` and `SENSOR_AXES`; an axis that is missing changes nothing."""


def curves_from_dict(record: Mapping[str, Any]) -> dict[str, Curve]:
    """Curves as a checkpoint's description holds them.

    Raises:
        ModelError: when they cannot be used.
    """
    try:
        return {name: Curve.from_dict(entry, COLUMNS[name]) for name, entry in record.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"The curves of the sigmas cannot be used ({error}): calibrate again by "
            "xec train calibrate."
        ) from error


class PiecewiseLinear(nn.Module):
    """A `Curve` as a sum of ramps: fixed shapes and no search, so that it can be exported.

    Its buffers are no part of the state: the checkpoint's description holds them.
    """

    def __init__(self, curve: Curve) -> None:
        super().__init__()
        step = np.diff(curve.factors, axis=0)
        width = np.diff(curve.knots)
        values = {
            "first": curve.factors[0],
            "knots": curve.knots[:-1],
            "width": width,
            "slope": step / width[:, None],
        }
        for name, value in values.items():
            tensor = torch.tensor(value, dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)
        self.first: Tensor
        self.knots: Tensor
        self.width: Tensor
        self.slope: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The factors (..., C) at x (...)."""
        if len(self.knots) == 0:
            return self.first.expand(*x.shape, -1)
        ramps = torch.minimum((x.unsqueeze(-1) - self.knots).clamp(min=0.0), self.width)
        return self.first + ramps @ self.slope


class SigmaScale(nn.Module):
    """One factor per task (and per component of uvw and angle), and curves; ones until measured."""

    def __init__(self) -> None:
        super().__init__()
        for name, width in WIDTHS.items():
            self.register_buffer(name, torch.ones(width))
        self.curves = nn.ModuleDict()

    def set_curves(self, curves: Curves) -> None:
        """Replace the curves."""
        device = self.get_buffer("energy_sigma").device
        made = {name: PiecewiseLinear(curve).to(device) for name, curve in curves.items()}
        self.curves = nn.ModuleDict(made)

    def reset(self) -> None:
        """Back to ones, without curves."""
        for name in WIDTHS:
            self.get_buffer(name).fill_(1.0)
        self.set_curves({})

    def forward(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Multiply each `*_sigma` of the contract's outputs by its factor."""
        factors = {name: self.get_buffer(name) for name in WIDTHS}
        factors = self._by_place(self._by_light(factors, outputs), outputs)
        return {
            name: value * factors[name] if name in factors else value
            for name, value in outputs.items()
        }

    def _by_place(
        self, factors: dict[str, Tensor], outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        uvw = outputs["uvw"]
        places = {"depth": uvw[:, 2], "u": uvw[:, 0].abs(), "v": uvw[:, 1].abs()}
        for axis, place in places.items():
            if axis in self.curves:
                columns = self.curves[axis](place).split(list(GAMMA_WIDTHS.values()), dim=1)
                for name, column in zip(GAMMA_WIDTHS, columns, strict=True):
                    factors[name] = factors[name] * column
        return factors

    def _by_light(
        self, factors: dict[str, Tensor], outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if not set(SENSOR_AXES) <= set(self.curves):
            return factors
        light = torch.log1p(outputs["npho_mean"].clamp(min=0.0))
        parts = {"inner": light[:, :N_MPPC], "pmt": light[:, N_MPPC:]}
        curves = torch.cat([self.curves[axis](parts[axis]) for axis in SENSOR_AXES], dim=1)
        for column, estimate in enumerate(SENSOR_ESTIMATES):
            name = estimate.sigma_name
            factors[name] = factors[name] * curves[..., column]
        return factors
