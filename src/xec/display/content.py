"""What a picture of an event shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from xec.detector.channels import N_CHANNELS, face_of_channel
from xec.event import (
    BoolArray,
    Event,
    FloatArray,
    Reconstruction,
    Recovered,
    RecoveryStatus,
    Truth,
)

# Symbol, unit and digits of what the lines of text say about a gamma.
_QUANTITIES: Final = (
    ("E", " MeV", 2),
    ("u", " cm", 2),
    ("v", " cm", 2),
    ("w", " cm", 2),
    ("θ", "°", 1),
    ("φ", "°", 1),
)
_FACES: Final = face_of_channel()


@dataclass(frozen=True, slots=True, eq=False)
class EventPicture:
    """One event with all that is known about it.

    Args:
        event: as measured.
        reconstruction: of this event, if there is one.
        reference: what each sensor would have read, (4760,) photons, if the simulation tells.
        truth: one row, if the simulation tells.
        synthetic: whether the event was simulated; the picture says so.
        geometry_hash: of the geometry that the event was made with, if its file tells.
    """

    event: Event
    reconstruction: Reconstruction | None = None
    reference: FloatArray | None = None
    truth: Truth | None = None
    synthetic: bool = False
    geometry_hash: str | None = None

    @property
    def measured(self) -> BoolArray:
        """Sensors that the reconstruction took as measured, (4760,).

        Beyond what the event marks, it may have left out those of a dead list of its own.
        """
        measured = self.event.npho_valid.copy()
        if self.reconstruction is not None:
            measured[self.reconstruction.recovered.channel] = False
        return measured

    def with_reconstruction(self, reconstruction: Reconstruction) -> EventPicture:
        """The same event with a reconstruction."""
        return replace(self, reconstruction=reconstruction)


def filled(recovered: Recovered) -> BoolArray:
    """Sensors that got a value, (4760,)."""
    mask = np.zeros(N_CHANNELS, dtype=np.bool_)
    mask[recovered.channel[recovered.status != RecoveryStatus.REFUSED]] = True
    return mask


def on_all_sensors(recovered: Recovered, values: FloatArray) -> FloatArray:
    """`values` of the recovered sensors, (K,), at their channels, (4760,), and 0 elsewhere."""
    spread = np.zeros(N_CHANNELS, dtype=np.float32)
    spread[recovered.channel] = values
    return spread


def title(picture: EventPicture) -> str:
    """Run and event, and whether they are synthetic."""
    text = f"Run {picture.event.run}, event {picture.event.event}"
    return f"{text} (synthetic)" if picture.synthetic else text


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _quantities(values: FloatArray, sigmas: FloatArray | None) -> str:
    parts = []
    for k, (symbol, unit, digits) in enumerate(_QUANTITIES):
        spread = "" if sigmas is None else f" ± {_number(sigmas[k], digits)}"
        parts.append(f"{symbol} = {_number(values[k], digits)}{spread}{unit}")
    return "   ".join(parts)


def _reconstructed_line(reconstruction: Reconstruction) -> str:
    """The reconstructed gamma with standard deviations, on one line."""
    gamma = (reconstruction.energy, reconstruction.uvw, reconstruction.angle)
    line = _quantities(
        np.concatenate([estimate.mean for estimate in gamma]),
        np.concatenate([estimate.sigma for estimate in gamma]),
    )
    flags = [flag.name.lower().replace("_", " ") for flag in reconstruction.flags if flag.name]
    return f"reconstructed:  {line}" + (f"   [{', '.join(flags)}]" if flags else "")


def _true_line(truth: Truth) -> str:
    """The simulated gamma, on one line."""
    values = np.concatenate([truth.energy[:1], truth.uvw[0], truth.angle[0]])
    return f"simulated:  {_quantities(values, None)}"


def gamma_lines(picture: EventPicture) -> list[str]:
    """The gamma as reconstructed and as simulated, a line each where it is known."""
    lines = []
    if picture.reconstruction is not None:
        lines.append(_reconstructed_line(picture.reconstruction))
    if picture.truth is not None:
        lines.append(_true_line(picture.truth))
    return lines


def origin_line(reconstruction: Reconstruction) -> str:
    """Which model and dead list made the reconstruction."""
    origin = reconstruction.provenance
    dead_list = f", dead list {origin.dead_list_id}" if origin.dead_list_id else ""
    return (
        f"xec {origin.software_version}, model {origin.model_name} {origin.model_version} "
        f"(sha256 {origin.model_sha256[:12]}){dead_list}"
    )


def brightest_lines(picture: EventPicture, count: int) -> list[str]:
    """A small table of the recovered sensors with most light: value, σ and reference."""
    if picture.reconstruction is None:
        return []
    recovered = picture.reconstruction.recovered
    usable = np.flatnonzero(recovered.status != RecoveryStatus.REFUSED)
    order = usable[np.argsort(-recovered.npho[usable], kind="stable")][:count]
    if not len(order):
        return []
    head = f"{'sensor':>11} {'recovered ± σ':>16}"
    lines = [head if picture.reference is None else f"{head} {'reference':>10}"]
    for k in order:
        channel = int(recovered.channel[k])
        value = f"{recovered.npho[k]:.0f} ± {recovered.npho_sigma[k]:>3.0f}"
        line = f"{_FACES[channel]:>6} {channel:4d} {value:>16}"
        if picture.reference is not None:
            line += f" {picture.reference[channel]:10.0f}"
        lines.append(line)
    return lines


def comparison_lines(picture: EventPicture) -> list[str]:
    """Recovered against reference, in numbers."""
    if picture.reconstruction is None or picture.reference is None:
        return []
    recovered = picture.reconstruction.recovered
    usable = recovered.status != RecoveryStatus.REFUSED
    if not usable.any():
        return []
    error = (recovered.npho - picture.reference[recovered.channel])[usable].astype(np.float64)
    pull = error / recovered.npho_sigma[usable]
    return [
        f"mean difference {_number(error.mean(), 1)} photons",
        f"root mean square {_number(np.sqrt(np.mean(error**2)), 1)} photons",
        f"root mean square in units of σ {_number(np.sqrt(np.mean(pull**2)), 2)}",
    ]
