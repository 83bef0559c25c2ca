"""What a run's summary is made of."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from xec.event import Reconstruction
from xec.lineage import Provenance


@dataclass(slots=True)
class Tally:
    """What a run's summary is made of: a few numbers per event, and the first events whole.

    Args:
        keep: how many reconstructions to keep for showing.
    """

    keep: int = 0
    shown: list[Reconstruction] = field(default_factory=list)
    energy: array[float] = field(default_factory=lambda: array("f"))
    energy_sigma: array[float] = field(default_factory=lambda: array("f"))
    recovered: array[int] = field(default_factory=lambda: array("i"))
    lineages: set[Provenance] = field(default_factory=set)

    def add(self, answers: Sequence[Reconstruction]) -> None:
        """Count some answers."""
        self.shown += answers[: max(self.keep - len(self.shown), 0)]
        for answer in answers:
            self.energy.append(float(answer.energy.mean[0]))
            self.energy_sigma.append(float(answer.energy.sigma[0]))
            self.recovered.append(len(answer.recovered))
            self.lineages.add(answer.provenance)

    def __len__(self) -> int:
        return len(self.energy)
