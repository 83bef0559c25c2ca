"""Columns of reconstructed events, derived from the contract, for every kind of result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from xec.contract import GAMMA_ESTIMATES, Estimate
from xec.event import EventBatch, FloatArray, Reconstruction
from xec.lineage import Provenance

RESULT_FORMAT: Final = "xec-results/1"

Field = Literal["mean", "sigma", "low", "high"]
_MEANING: Final[Mapping[Field, str]] = {
    "mean": "",
    "sigma": "predictive standard deviation of the ",
    "low": "lower end of the calibrated 68 % interval of the ",
    "high": "upper end of the calibrated 68 % interval of the ",
}


@dataclass(frozen=True, slots=True)
class GammaColumn:
    """One column of a regressed quantity, such as `energy_low`; `width` numbers in a row."""

    name: str
    estimate: str
    field: Field
    width: int
    unit: str
    meaning: str

    def values(self, reconstructions: Sequence[Reconstruction]) -> FloatArray:
        """The column of some events, (B, width)."""
        column = np.empty((len(reconstructions), self.width), dtype=np.float32)
        for row, reconstruction in enumerate(reconstructions):
            column[row] = getattr(getattr(reconstruction, self.estimate), self.field)
        return column


def _columns_of(estimate: Estimate) -> tuple[GammaColumn, ...]:
    names: dict[Field, str] = {
        "mean": estimate.mean_name,
        "sigma": estimate.sigma_name,
        "low": f"{estimate.name}_low",
        "high": f"{estimate.name}_high",
    }
    return tuple(
        GammaColumn(
            name,
            estimate.name,
            field,
            estimate.width,
            estimate.unit,
            _MEANING[field] + estimate.meaning,
        )
        for field, name in names.items()
    )


GAMMA_COLUMNS: Final = tuple(
    column for estimate in GAMMA_ESTIMATES for column in _columns_of(estimate)
)


class ProvenanceList:
    """The distinct provenances of a file, in order of appearance.

    Usually one; a server that changes its model or dead list while it answers gives more, and each
    row tells by an index which one is its own.
    """

    def __init__(self) -> None:
        self._index: dict[Provenance, int] = {}

    def index(self, provenance: Provenance) -> int:
        """The number of `provenance`, new or known."""
        return self._index.setdefault(provenance, len(self._index))

    def as_list(self) -> list[dict[str, str]]:
        """All of them, for the file's metadata."""
        return [provenance.as_dict() for provenance in self._index]


def refuse_mismatch(events: EventBatch, reconstructions: Sequence[Reconstruction]) -> None:
    """Guard against answers that were mixed up with other events."""
    asked = list(zip(events.run.tolist(), events.event.tolist(), strict=True))
    if asked != [(answer.run, answer.event) for answer in reconstructions]:
        raise ValueError("reconstructions do not belong to these events")


@dataclass(frozen=True, slots=True)
class ResultLabel:
    """What a result file says about the events it was made from.

    Args:
        source: name of the file that they came from.
        synthetic: whether they were simulated.
    """

    source: str
    synthetic: bool

    def metadata(self, provenances: ProvenanceList) -> dict[str, Any]:
        """The file's metadata, ready for JSON."""
        return {
            "format": RESULT_FORMAT,
            "source": self.source,
            "synthetic": self.synthetic,
            "provenance": provenances.as_list(),
        }
