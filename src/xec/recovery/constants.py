"""The constants of the conventional estimators, and their defaults.

`benchmarks/conventional_constants.py` fits the defaults on simulated (synthetic) events and
writes them to `constants.json` beside this file, with the command, the seed and the number of
events.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

SIGNAL_ENERGY: Final = 52.8
"""MeV; corrections that grow with the logarithm of the energy vanish here."""

Coefficients = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Correction:
    """From the centre of the light to the conversion: coefficients of `position.features`."""

    u: Coefficients
    v: Coefficients
    w: Coefficients


@dataclass(frozen=True, slots=True)
class PositionConstants:
    """One correction for each way to find the centre of the light."""

    fit: Correction
    mean: Correction


@dataclass(frozen=True, slots=True)
class EnergyConstants:
    """MeV per photon of the four kinds of faces: coefficients of `energy.features`."""

    inner: Coefficients
    outer: Coefficients
    side: Coefficients
    lid: Coefficients


@dataclass(frozen=True, slots=True)
class TimeConstants:
    """How late a sensor fires, ns after the conversion: coefficients of `gamma_time.features`."""

    event: Coefficients  # constant, per cm of depth, per unit of the energy's logarithm
    pmt_delay: float  # ns
    mppc_slowness: float  # ns/cm
    pmt_slowness: float  # ns/cm


@dataclass(frozen=True, slots=True)
class GammaConstants:
    """All constants of `conventional_gamma`."""

    position: PositionConstants
    energy: EnergyConstants
    time: TimeConstants

    def as_dict(self) -> dict[str, Any]:
        """For a file; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GammaConstants:
        """From the content of a file."""
        position, energy, time = values["position"], values["energy"], values["time"]
        corrections = {
            way: Correction(**{name: tuple(numbers) for name, numbers in position[way].items()})
            for way in ("fit", "mean")
        }
        return cls(
            PositionConstants(**corrections),
            EnergyConstants(**{name: tuple(numbers) for name, numbers in energy.items()}),
            TimeConstants(**{**time, "event": tuple(time["event"])}),
        )


@cache
def default_constants() -> GammaConstants:
    """Fitted on synthetic events of the parametric detector.

    Read on demand, so that the file can be made anew after its form has changed.
    """
    text = files("xec.recovery").joinpath("constants.json").read_text(encoding="utf-8")
    return GammaConstants.from_dict(json.loads(text)["constants"])
