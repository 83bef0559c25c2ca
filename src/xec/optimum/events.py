"""Synthetic events whose random numbers are known, in the form that every method reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from xec.detector.channels import N_CHANNELS, N_MPPC
from xec.detector.geometry import Geometry
from xec.optimum.latent import LatentModel
from xec.simulation.electronics import Electronics, time_zero
from xec.simulation.generator import (
    RunConditions,
    SimulatedBatch,
    SimulationConfig,
    draw_run_conditions,
)
from xec.simulation.optics import Illumination, Optics
from xec.simulation.shower import Deposits
from xec.simulation.vertex import Gammas, angles_from_direction, uvw_from_xyz

FRONT_ASIDE: Final = 0.5
"""cm; a sensor in front of the conversion is nearer than this in u and in v."""

FRONT_DEPTH: Final = 1.0
"""cm; the conversion is shallower than this."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownEvents:
    """Events and the points of the prior that made them."""

    z: Tensor  # (B, size) float64
    batch: SimulatedBatch

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: slice | Tensor) -> KnownEvents:
        batch = {f.name: getattr(self.batch, f.name)[rows] for f in fields(self.batch)}
        return KnownEvents(self.z[rows], SimulatedBatch(**batch))

    def with_dead(self, dead: Tensor) -> KnownEvents:
        """The same events and readings with the sensors `dead` (B, 4760) taken out.

        The times keep their zero, which no method reads anything from.
        """
        batch = {f.name: getattr(self.batch, f.name) for f in fields(self.batch)}
        return KnownEvents(self.z, SimulatedBatch(**{**batch, "dead": dead}))

    @property
    def live(self) -> Tensor:
        """Sensors (B, 4760) whose count may be used."""
        return self.batch.npho_valid & ~self.batch.dead


class EventSource:
    """The simulation, fed with points of the prior.

    Args:
        model: from points to deposits.
        config: optics, electronics and dead maps; its source and shower are not read.
        geometry: of the sensors.
        seed: of all random numbers.
    """

    def __init__(
        self, model: LatentModel, config: SimulationConfig, geometry: Geometry, seed: int
    ) -> None:
        self.model = model
        self.config = config
        self._rng = torch.Generator().manual_seed(seed)
        self._uv = uvw_from_xyz(torch.tensor(geometry.position[:N_MPPC]))[:, :2]
        self._optics = Optics(config.optics, geometry, "cpu")
        self._electronics = Electronics(config.electronics, "cpu")

    def draw(self, n: int, energy: float | None = None) -> KnownEvents:
        """`n` events of the prior, each with a run of its own; all of one `energy` if given."""
        z = self.model.draw(n, self._rng)
        return self.read(z if energy is None else self.model.at_energy(z, energy))

    def draw_in_front(self, n: int, energy: float | None = None) -> tuple[KnownEvents, Tensor]:
        """`n` shallow events right behind an inner sensor, and these sensors (n, 4760), bool.

        |u|, |v| nearer than 0.5 cm, 0 < w < 1 cm (FACTS 4); their sensor is dead, too.
        """
        found: list[Tensor] = []
        while sum(map(len, found)) < n:
            z = self.model.draw(20 * n, self._rng)
            found.append(z[self.in_front(self.model.gammas(z).xyz).any(-1)])
        z = torch.cat(found)[:n]
        events = self.read(z if energy is None else self.model.at_energy(z, energy))
        front = self.in_front(self.model.gammas(z).xyz)
        return events.with_dead(events.batch.dead | front), front

    def in_front(self, xyz: Tensor) -> Tensor:
        """Inner sensors right in front of conversions (B, 3): (B, 4760), bool."""
        uvw = uvw_from_xyz(xyz).unsqueeze(1)
        front = (_front_margins(uvw, self._uv) > 0).all(-1)
        return torch.nn.functional.pad(front, (0, N_CHANNELS - N_MPPC))

    def front_region(self, front: Tensor) -> Callable[[Tensor], Tensor]:
        """Margins (B, 4) in cm, positive where a conversion lies behind its `front` (B, 4760)."""
        uv = self._uv[front[:, :N_MPPC].int().argmax(-1)]
        return lambda z: _front_margins(uvw_from_xyz(self.model.gammas(z).xyz), uv)

    def read(self, z: Tensor) -> KnownEvents:
        """Events at the points `z` (B, size), each with a run of its own."""
        gammas = self.model.gammas(z)
        deposits = _single(self.model.deposits(z, gammas))
        gammas = Gammas(*(getattr(gammas, f.name).float() for f in fields(gammas)))
        illumination = self._optics.illuminate(deposits)
        run = draw_run_conditions(len(z), self.config, self._rng)
        return KnownEvents(z, self._batch(gammas, illumination, run))

    def _batch(
        self, gammas: Gammas, illumination: Illumination, run: RunConditions
    ) -> SimulatedBatch:
        readings = self._electronics.read(illumination, run.efficiency, run.gain, self._rng)
        zero = time_zero(readings, ~run.dead, self.config.electronics.reference_npe)
        return SimulatedBatch(
            npho=readings.npho,
            light=illumination.light,
            time=(readings.time - zero).masked_fill_(~readings.time_valid, 0.0),
            npho_valid=readings.npho_valid,
            time_valid=readings.time_valid,
            dead=run.dead,
            energy=gammas.energy,
            gamma_time=-zero.squeeze(-1),
            uvw=uvw_from_xyz(gammas.xyz),
            xyz=gammas.xyz,
            vertex=gammas.vertex,
            direction=gammas.direction,
            angle=angles_from_direction(gammas.direction),
            efficiency=run.efficiency,
        )


def _front_margins(uvw: Tensor, uv: Tensor) -> Tensor:
    """How far (..., 4) conversions (..., 3) are inside the region behind sensors at (..., 2)."""
    aside = FRONT_ASIDE - (uvw[..., :2] - uv).abs()
    depth = uvw[..., 2:].expand(*aside.shape[:-1], 1)
    return torch.cat([aside, depth, FRONT_DEPTH - depth], dim=-1)


def _single(deposits: Deposits) -> Deposits:
    return Deposits(deposits.xyz.float(), deposits.energy.float(), deposits.delay.float())
