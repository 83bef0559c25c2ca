"""What the readings say about an event, near the truth: information and its inverse.

The prior of z has information I; live readings of light m(z) with variance V add J^T V^-1 J, with
J = dm/dz at the truth, and times likewise. Of any function f(z) the best estimate then has the
variance f' C f'^T, with C the inverse of the sum. This is exact where m is linear in z and V
constant; `xec.optimum.posterior` checks it where they are not.

Light and times depend on z through the deposits alone, so that J is a product of small factors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor

from xec.optimum.arrival import arrival_slopes, time_information, time_weight
from xec.optimum.events import KnownEvents
from xec.optimum.latent import ENERGY, LatentModel
from xec.optimum.lightmap import LightMap
from xec.optimum.readings import ReadingModel
from xec.simulation.vertex import Gammas, angles_from_direction, uvw_from_xyz

GAMMA_NAMES: Final = ("energy", "u", "v", "w", "theta", "phi")


class Jacobians(NamedTuple):
    """Derivatives in the S coordinates of z, at one point per event."""

    light: Tensor  # (B, N) photons
    of_light: Tensor  # (B, N, S) photons
    of_time: Tensor | None  # (B, N, S) ns
    of_gamma: Tensor  # (B, 6, S) of `GAMMA_NAMES`: MeV, cm, degrees

    def at_known_energy(self) -> Jacobians:
        """The same with an energy that is known beforehand."""
        of_light, of_gamma = self.of_light.clone(), self.of_gamma.clone()
        of_time = None if self.of_time is None else self.of_time.clone()
        for part in (of_light, of_gamma, of_time):
            if part is not None:
                part[..., ENERGY] = 0.0
        return Jacobians(self.light, of_light, of_time, of_gamma)


class Optimum(NamedTuple):
    """Standard deviations of the best estimates."""

    light: Tensor  # (B, N) photons; of live sensors given their own readings, too
    gamma: Tensor  # (B, 6) of `GAMMA_NAMES`


def gamma_quantities(gammas: Gammas) -> Tensor:
    """Energy, u, v, w, theta, phi (..., 6) of gammas."""
    parts = [gammas.energy.unsqueeze(-1), uvw_from_xyz(gammas.xyz)]
    return torch.cat([*parts, angles_from_direction(gammas.direction)], dim=-1)


@dataclass(frozen=True, slots=True)
class Laplace:
    """Information and optimum of events.

    Args:
        model: prior and map from z to deposits.
        light_map: from deposits to light, float64.
        readings: of the sensors.
    """

    model: LatentModel
    light_map: LightMap
    readings: ReadingModel = field(default_factory=ReadingModel)

    def jacobians(self, z: Tensor, *, times: bool = False) -> Jacobians:
        """Light and derivatives at the points `z` (B, S); those of the times on demand."""
        model = self.model

        def made(point: Tensor) -> tuple[Tensor, ...]:
            gammas = model.gammas(point)
            deposits = model.deposits(point, gammas)
            return deposits.xyz, deposits.energy, deposits.delay, gamma_quantities(gammas)

        place, energy, delay, gamma = torch.func.vmap(torch.func.jacrev(made))(z)
        place = place.flatten(1, 2)
        deposits = model.deposits(z, model.gammas(z))
        slopes = self.light_map.slopes(deposits.xyz, deposits.energy)
        of_light = slopes.place.flatten(1, 2).mT @ place + slopes.energy.mT @ energy
        of_time = None
        if times:
            arrival = arrival_slopes(self.light_map, deposits)
            of_time = arrival.place.flatten(1, 2).mT @ place + arrival.energy.mT @ energy
            of_time = of_time + arrival.delay.mT @ delay
        return Jacobians(slopes.light, of_light, of_time, gamma)

    def information(self, jacobian: Jacobians, events: KnownEvents, live: Tensor) -> Tensor:
        """Information (B, S, S) on z of the sensors `live` (B, N) and the prior.

        Times count where the Jacobian holds them, with the count as measured.
        """
        batch = events.batch
        weight = live / self.readings.variance(jacobian.light, batch.efficiency)
        total = light_information(jacobian.of_light, weight)
        if jacobian.of_time is not None:
            npe = batch.npho * self.readings.efficiencies(batch.efficiency)
            usable = time_weight(npe, batch.time_valid & live, self.readings.config)
            total = total + time_information(jacobian.of_time, usable)
        return total + torch.eye(total.shape[-1], dtype=total.dtype)

    def optimum(self, jacobian: Jacobians, events: KnownEvents, live: Tensor) -> Optimum:
        """Best standard deviations when the sensors `live` (B, N) are read."""
        total = self.information(jacobian, events, live)
        return Optimum(deviations(jacobian.of_light, total), deviations(jacobian.of_gamma, total))


def light_information(of_light: Tensor, weight: Tensor) -> Tensor:
    """Information (B, S, S) of readings with 1 / variance `weight` (B, N), 0 where not live."""
    return of_light.mT @ (of_light * weight.unsqueeze(-1))


def deviations(of: Tensor, total: Tensor) -> Tensor:
    """Standard deviations (B, K) of quantities with derivatives (B, K, S), given information."""
    factor = torch.linalg.cholesky(total)
    solved: Tensor = torch.linalg.solve_triangular(factor, of.mT, upper=False)
    return solved.square().sum(-2).sqrt()
