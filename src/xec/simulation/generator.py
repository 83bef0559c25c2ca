"""Simulated events (synthetic), from the muon target to the readings of all sensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xec.detector.geometry import Geometry
from xec.simulation.deadmap import DeadMapConfig, draw_dead_maps
from xec.simulation.electronics import (
    Electronics,
    ElectronicsConfig,
    Readings,
    draw_efficiency,
    draw_gains,
    time_zero,
)
from xec.simulation.optics import Illumination, Optics, OpticsConfig
from xec.simulation.shower import ShowerConfig, draw_deposits
from xec.simulation.vertex import (
    Gammas,
    SourceConfig,
    angles_from_direction,
    draw_gammas,
    uvw_from_xyz,
)


@dataclass(frozen=True, slots=True)
class PileUpConfig:
    """A second gamma in the same readout window.

    Args:
        probability: of a second gamma in an event.
        energy: its range in MeV, logarithmically flat.
        window: its time offset is flat between minus and plus this, ns.
    """

    probability: float = 0.0
    energy: tuple[float, float] = (5.0, 52.8)
    window: float = 50.0


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """All physics constants of the simulation, one group per stage; units in the groups."""

    source: SourceConfig = field(default_factory=SourceConfig)
    shower: ShowerConfig = field(default_factory=ShowerConfig)
    optics: OpticsConfig = field(default_factory=OpticsConfig)
    electronics: ElectronicsConfig = field(default_factory=ElectronicsConfig)
    dead: DeadMapConfig = field(default_factory=DeadMapConfig)
    pile_up: PileUpConfig = field(default_factory=PileUpConfig)


@dataclass(frozen=True, slots=True, eq=False)
class RunConditions:
    """What stays the same within a run; R rows, one per event or a single one for all."""

    efficiency: Tensor  # (R,) photon detection efficiency of the MPPC
    gain: Tensor  # (R, 4760) gain factors around 1
    dead: Tensor  # (R, 4760) bool

    def with_dead(self, dead: NDArray[np.bool_]) -> RunConditions:
        """The same conditions with the dead map `dead` (4760,) for all events."""
        flags = torch.from_numpy(dead.copy()).to(self.dead.device).expand_as(self.dead)
        return RunConditions(self.efficiency, self.gain, flags)


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedBatch:
    """B synthetic events as tensors on one device."""

    npho: Tensor  # (B, 4760) photons, every sensor's reading, dead ones included
    light: Tensor  # (B, 4760) expected photons without noise: what each sensor should read
    time: Tensor  # (B, 4760) ns after the event's earliest, dead ones included; 0 where invalid
    npho_valid: Tensor  # (B, 4760) bool, this event's invalid bits (dead sensors are not in it)
    time_valid: Tensor  # (B, 4760) bool, the same for times, and enough light
    dead: Tensor  # (B, 4760) bool
    energy: Tensor  # (B,) MeV
    gamma_time: Tensor  # (B,) ns, conversion, same zero as `time`
    uvw: Tensor  # (B, 3) cm, conversion
    xyz: Tensor  # (B, 3) cm, conversion
    vertex: Tensor  # (B, 3) cm
    direction: Tensor  # (B, 3) unit vector of flight
    angle: Tensor  # (B, 2) degrees, theta and phi
    efficiency: Tensor  # (B,) photon detection efficiency of the MPPC in this run

    def __len__(self) -> int:
        return len(self.energy)


def draw_run_conditions(n: int, config: SimulationConfig, rng: torch.Generator) -> RunConditions:
    """Efficiencies, gains and dead maps of `n` runs."""
    return RunConditions(
        draw_efficiency(n, config.electronics, rng),
        draw_gains(n, config.electronics, rng),
        draw_dead_maps(n, config.dead, rng),
    )


class Generator:
    """A seeded source of synthetic events.

    Equal seeds and equal calls give equal bits on a CPU. `state_dict` holds the state of the
    random numbers, so that a resumed training sees the same events.

    Args:
        config: physics constants.
        geometry: positions and normals of the sensors.
        device: where the events are computed and left.
        seed: not negative.
    """

    def __init__(
        self,
        config: SimulationConfig,
        geometry: Geometry,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self._rng = torch.Generator(self.device).manual_seed(seed)
        self._optics = Optics(config.optics, geometry, self.device)
        self._electronics = Electronics(config.electronics, self.device)

    def draw_run(self) -> RunConditions:
        """Conditions of one new run, to be given to `sample`."""
        return draw_run_conditions(1, self.config, self._rng)

    @torch.no_grad()
    def sample(self, n: int, run: RunConditions | None = None) -> SimulatedBatch:
        """Draw `n` events.

        Args:
            n: number of events.
            run: conditions that all of them share; without it each event has its own.
        """
        gammas = draw_gammas(n, self.config.source, self._rng)
        deposits = draw_deposits(gammas, self.config.shower, self._rng)
        illumination = self._with_pile_up(self._optics.illuminate(deposits))
        if run is None:
            run = draw_run_conditions(n, self.config, self._rng)
        readings = self._electronics.read(
            illumination, run.efficiency.expand(n), run.gain, self._rng
        )
        return self._batch(gammas, illumination, readings, run)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the random numbers."""
        return {"rng": self._rng.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        self._rng.set_state(state["rng"])

    def _with_pile_up(self, signal: Illumination) -> Illumination:
        """Add the light of second gammas; a sensor's time is that of its brighter gamma."""
        config = self.config.pile_up
        if config.probability == 0.0:
            return signal
        B = len(signal.light)
        chance = torch.rand(B, generator=self._rng, device=self.device)
        events = (chance < config.probability).nonzero().squeeze(-1)
        n = len(events)
        if n == 0:
            return signal
        gammas = draw_gammas(n, self.config.source, self._rng)
        random = torch.rand(2, n, generator=self._rng, device=self.device)
        low, high = (math.log(energy) for energy in config.energy)
        energy = (random[0] * (high - low) + low).exp()
        offset = (2.0 * random[1] - 1.0) * config.window
        second = Gammas(energy, gammas.vertex, gammas.direction, gammas.xyz)
        deposits = draw_deposits(second, self.config.shower, self._rng)
        extra = self._optics.illuminate(deposits)
        light, arrival = signal.light.clone(), signal.arrival.clone()
        brighter = extra.light > light[events]
        late = extra.arrival + offset.unsqueeze(-1)
        arrival[events] = torch.where(brighter, late, arrival[events])
        light[events] += extra.light
        return Illumination(light, arrival)

    def _batch(
        self, gammas: Gammas, illumination: Illumination, readings: Readings, run: RunConditions
    ) -> SimulatedBatch:
        B = len(gammas.energy)
        zero = time_zero(readings, ~run.dead, self.config.electronics.reference_npe)
        time = (readings.time - zero).masked_fill_(~readings.time_valid, 0.0)
        return SimulatedBatch(
            npho=readings.npho,
            light=illumination.light,
            time=time,
            npho_valid=readings.npho_valid,
            time_valid=readings.time_valid,
            dead=run.dead.expand(B, -1),
            energy=gammas.energy,
            gamma_time=-zero.squeeze(-1),
            uvw=uvw_from_xyz(gammas.xyz),
            xyz=gammas.xyz,
            vertex=gammas.vertex,
            direction=gammas.direction,
            angle=angles_from_direction(gammas.direction),
            efficiency=run.efficiency.expand(B),
        )
