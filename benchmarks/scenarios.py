"""What reconstructions are judged on: kinds of events and of dead sensors, and what methods say.

Events are synthetic and made as they are needed; errors on dead sensors are those against the
expected light, which only a simulation knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from xec.contract import GAMMA_ESTIMATES
from xec.detector.channels import N_MPPC
from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import Geometry
from xec.simulation.deadmap import TYPICAL_RUN, Cluster, DeadMapConfig
from xec.simulation.electronics import ElectronicsConfig
from xec.simulation.generator import Generator, PileUpConfig, SimulatedBatch, SimulationConfig
from xec.simulation.vertex import SourceConfig
from xec_export.events import contract_inputs

Array = NDArray[np.float64]
Outputs = Mapping[str, NDArray[np.float32]]
BATCH: Final = 50
FRONT_ASIDE: Final = 0.5  # cm, FACTS 4
FRONT_DEPTH: Final = 1.0  # cm
COMPONENTS: Final = ("energy", "gamma_time", "u", "v", "w", "theta", "phi")
UNITS: Final = ("MeV", "ns", "cm", "cm", "cm", "degrees", "degrees")


def _cells(rows: int, columns: int, slots: int) -> DeadMapConfig:
    shape = (Cluster(rows=rows, columns=columns, weight=1.0),)
    return DeadMapConfig(
        (0.0, 0.0), cluster_slots=slots, cluster_presence=(1.0, 1.0), clusters=shape
    )


@dataclass(frozen=True)
class Scenario:
    """A kind of events.

    Args:
        title: in tables.
        config: of the simulation.
        share: of the events that the main scenario has.
        front: mask the inner sensor in front of the conversion as well, and keep only events
            that have one; the errors are those of that sensor.
    """

    title: str
    config: SimulationConfig = field(default_factory=SimulationConfig)
    share: float = 0.25
    front: bool = False


def _with(dead: DeadMapConfig = TYPICAL_RUN, **parts: object) -> SimulationConfig:
    return replace(SimulationConfig(), dead=dead, **parts)  # type: ignore[arg-type]


def _pde(low: float, high: float) -> SimulationConfig:
    return _with(electronics=ElectronicsConfig(mppc_pde=(low, high)))


NOTHING: Final = DeadMapConfig((0.0, 0.0), cluster_presence=(0.0, 0.0))
SCENARIOS: Final[dict[str, Scenario]] = {
    "signal": Scenario("52.8 MeV, 88 dead, single and clustered", _with(), share=1.0),
    "none": Scenario("the same events, nothing dead", _with(NOTHING), share=1.0),
    "front": Scenario("the sensor in front of the conversion", _with(), share=1.0, front=True),
    "singles": Scenario(
        "88 dead, all single", _with(DeadMapConfig((0.0185, 0.0185), cluster_presence=(0.0, 0.0)))
    ),
    "boards": Scenario("six boards of 4 x 4", _with(_cells(4, 4, 6))),
    "row": Scenario("two whole rows", _with(_cells(1, 44, 2))),
    "five percent": Scenario(
        "5 % dead, all single", _with(DeadMapConfig((0.05, 0.05), cluster_presence=(0.0, 0.0)))
    ),
    "spectrum": Scenario("15 to 60 MeV", _with(source=SourceConfig(energy=(15.0, 60.0)))),
    "pile-up": Scenario("a second gamma in each", _with(pile_up=PileUpConfig(probability=1.0))),
    "low PDE": Scenario("MPPC efficiency 6 to 8 %", _pde(0.06, 0.08)),
    "high PDE": Scenario("MPPC efficiency 18 to 20 %", _pde(0.18, 0.20)),
}


@dataclass(frozen=True)
class Judged:
    """Events with what is dead in them, what is asked, and the contract's inputs."""

    batch: SimulatedBatch
    asked: NDArray[np.bool_]  # (B, 4760) sensors whose light is compared
    inputs: dict[str, NDArray[np.generic]]

    @property
    def truth(self) -> Array:
        """(B, 7) in the order of COMPONENTS."""
        b = self.batch
        parts = [b.energy.unsqueeze(1), b.gamma_time.unsqueeze(1), b.uvw, b.angle]
        return torch.cat(parts, dim=1).double().numpy()


def judged(scenario: Scenario, events: int, geometry: Geometry, seed: int) -> Iterator[Judged]:
    """The scenario's events in batches; `events` are drawn, of which `front` keeps some."""
    source = Generator(scenario.config, geometry, "cpu", seed)
    uv = torch.tensor(uvw_from_xyz(geometry.position[:N_MPPC])[:, :2])
    for start in range(0, events, BATCH):
        batch = source.sample(min(BATCH, events - start))
        asked = batch.dead & batch.npho_valid
        if scenario.front:
            asked = _in_front(batch, uv) & batch.npho_valid & ~batch.dead
            batch = replace(batch, dead=batch.dead | asked)
            kept = asked.any(dim=1)
            if not bool(kept.any()):
                continue
            batch, asked = _taken(batch, kept), asked[kept]
        yield Judged(batch, asked.numpy(), contract_inputs(batch))


def _in_front(batch: SimulatedBatch, uv: torch.Tensor) -> torch.Tensor:
    """The inner sensors (B, 4760) in front of the conversion (FACTS 4)."""
    aside = (uv - batch.uvw[:, None, :2]).abs().amax(dim=2)
    shallow = (batch.uvw[:, 2] > 0) & (batch.uvw[:, 2] < FRONT_DEPTH)
    front = torch.zeros_like(batch.dead)
    front[:, :N_MPPC] = (aside < FRONT_ASIDE) & shallow.unsqueeze(1)
    return front


def _taken(batch: SimulatedBatch, rows: torch.Tensor) -> SimulatedBatch:
    names = batch.__dataclass_fields__
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})


@dataclass
class Found:
    """Errors that were gathered; sensors as one long list with the number of their event."""

    event: list[NDArray[np.int64]] = field(default_factory=list)
    light: list[Array] = field(default_factory=list)
    reading: list[Array] = field(default_factory=list)
    sigma: list[Array] = field(default_factory=list)
    fills: dict[str, list[Array]] = field(default_factory=dict)
    truth: list[Array] = field(default_factory=list)
    gamma: dict[str, list[Array]] = field(default_factory=dict)
    gamma_sigma: list[Array] = field(default_factory=list)
    events: int = 0

    def add(
        self,
        some: Judged,
        outputs: Outputs,
        fills: Mapping[str, Array],
        gammas: Mapping[str, Array],
    ) -> None:
        """The network's outputs and other methods' answers to a batch."""
        rows, _ = np.nonzero(some.asked)
        self.event.append(rows + self.events)
        self.events += len(some.batch)
        self.light.append(some.batch.light.double().numpy()[some.asked])
        self.reading.append(some.batch.npho.double().numpy()[some.asked])
        self.sigma.append(outputs["npho_sigma"].astype(np.float64)[some.asked])
        for name, fill in {"this network": outputs["npho_mean"], **fills}.items():
            self.fills.setdefault(name, []).append(np.asarray(fill, np.float64)[some.asked])
        self.truth.append(some.truth)
        mean = [outputs[e.mean_name].astype(np.float64) for e in GAMMA_ESTIMATES]
        sigma = [outputs[e.sigma_name].astype(np.float64) for e in GAMMA_ESTIMATES]
        self.gamma_sigma.append(np.concatenate(sigma, axis=1))
        for name, value in {"this network": np.concatenate(mean, axis=1), **gammas}.items():
            self.gamma.setdefault(name, []).append(value)
