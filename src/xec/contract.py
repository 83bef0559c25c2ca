"""The tensors of a reconstruction model: the one place that names them.

The ONNX graph, Triton's ``config.pbtxt``, the wire codec and the server's validation all derive
from this file. Raw in, physics out: normalisation, validity and denormalisation live inside the
graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from xec.detector.channels import N_CHANNELS

CONTRACT_VERSION: Final = "1"
MODEL_NAME: Final = "reconstruct"

MIN_PHOTONS_FOR_TIME: Final = 100.0
"""A time is meaningful where the same sensor counts more photons than this."""

LARGEST_READING: Final = 9.0e9
"""Photons or ns; what is larger in size is no reading: files mark invalid ones by 1e10."""

DType = Literal["float32", "uint8"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the contract; its shape is ``(B, width)``."""

    name: str
    dtype: DType
    width: int
    unit: str
    meaning: str


INPUTS: Final[tuple[Tensor, ...]] = (
    Tensor("npho", "float32", N_CHANNELS, "photons", "photons at the sensor surface"),
    Tensor("time", "float32", N_CHANNELS, "ns", "time of each sensor, any common zero"),
    Tensor("npho_valid", "uint8", N_CHANNELS, "", "0: dead, or count invalid in this event"),
    Tensor("time_valid", "uint8", N_CHANNELS, "", "0: dead, or time invalid or meaningless"),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity with its predictive standard deviation: two output tensors."""

    name: str
    width: int
    unit: str
    meaning: str

    @property
    def mean_name(self) -> str:
        """Name of the tensor with the expected value."""
        return f"{self.name}_mean" if self.width == N_CHANNELS else self.name

    @property
    def sigma_name(self) -> str:
        """Name of the tensor with the standard deviation."""
        return f"{self.name}_sigma"


SENSOR_ESTIMATES: Final[tuple[Estimate, ...]] = (
    Estimate("npho", N_CHANNELS, "photons", "what each sensor should read"),
    Estimate("time", N_CHANNELS, "ns", "when each sensor should fire, same zero as the input"),
)

GAMMA_ESTIMATES: Final[tuple[Estimate, ...]] = (
    Estimate("energy", 1, "MeV", "energy of the gamma"),
    Estimate("gamma_time", 1, "ns", "time of its conversion, same zero as the input"),
    Estimate("uvw", 3, "cm", "position of its conversion, global u, v, w"),
    Estimate("angle", 2, "degrees", "direction of flight, theta and phi"),
)

ESTIMATES: Final[tuple[Estimate, ...]] = SENSOR_ESTIMATES + GAMMA_ESTIMATES


def _tensors(estimates: Iterable[Estimate]) -> tuple[Tensor, ...]:
    """Mean and standard deviation of each estimate."""
    return tuple(
        tensor
        for e in estimates
        for tensor in (
            Tensor(e.mean_name, "float32", e.width, e.unit, e.meaning),
            Tensor(
                e.sigma_name,
                "float32",
                e.width,
                e.unit,
                f"predictive standard deviation of {e.mean_name}",
            ),
        )
    )


OUTPUTS: Final[tuple[Tensor, ...]] = _tensors(ESTIMATES)

MODELS: Final[Mapping[str, tuple[Tensor, ...]]] = {
    MODEL_NAME: OUTPUTS,
    "inpaint": _tensors(SENSOR_ESTIMATES),
    "regress": _tensors(GAMMA_ESTIMATES),
}
"""Outputs of each model of a repository: the whole network, and its two halves on their own."""


def outputs_of(model: str) -> tuple[Tensor, ...]:
    """The outputs of a model by its name; those of the whole network for names not in `MODELS`."""
    return MODELS.get(model, OUTPUTS)
