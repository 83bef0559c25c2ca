"""The exact posterior of events, by chains that start at the truth.

The truth is itself a draw from the posterior of the readings that it made, so that a chain
started there has nothing to forget but where it started. The mean of the light over the chain is
the prediction with the least mean square error that there is; the variance, averaged over
events, is that error. A chain too short to have moved far from the truth makes both too small.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from xec.optimum.events import KnownEvents
from xec.optimum.hmc import Chains, HmcSettings, Margins, effective_draws, run_chains
from xec.optimum.laplace import Laplace, gamma_quantities
from xec.optimum.lightmap import LightMap

_EVENTS_AT_ONCE = 4
_MASS_POINTS = 8  # of a chain, whose information makes its mass matrix


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """Of B events: at each of K asked-for sensors in all, and of the gamma."""

    event: Tensor  # (K,) row of the event
    channel: Tensor  # (K,)
    mean: Tensor  # (K,) photons, the best prediction
    median: Tensor  # (K,) photons, that of least mean |error|
    variance: Tensor  # (K,) photons squared, of the light itself
    absolute: Tensor  # (K,) photons, mean distance of the light from its median
    effective: Tensor  # (K,) independent draws that the chain of this sensor's light is worth
    gamma_mean: Tensor  # (B, 6) of `laplace.GAMMA_NAMES`
    gamma_variance: Tensor  # (B, 6)
    gamma_effective: Tensor  # (B, 6)
    chains: Chains


@dataclass(frozen=True, slots=True)
class PosteriorSampler:
    """Draws from posteriors of events.

    Args:
        laplace: prior, map from z to light, likelihood; makes the chains' mass matrices.
        light_map: the same light map for the chains, in float32.
        settings: of the chains.
    """

    laplace: Laplace
    light_map: LightMap
    settings: HmcSettings = field(default_factory=HmcSettings)

    def light(self, z: Tensor) -> Tensor:
        """Expected photons (B, N) of the points `z` (B, S); differentiable."""
        deposits = self.laplace.model.deposits(z, self.laplace.model.gammas(z))
        return self.light_map.light(deposits.xyz, deposits.energy)

    def run(
        self,
        events: KnownEvents,
        asked: Tensor,
        rng: torch.Generator,
        region: Margins | None = None,
    ) -> Posterior:
        """Posterior of the light of some sensors, and of the gamma.

        Args:
            events: their truth is where the chains start.
            asked: (B, N) the sensors, none of which may be live.
            rng: of the chains.
            region: what else is known: z lies where all of these margins (B, W) are positive, as
                the truth does. Events chosen by their truth need it: else it is no draw from
                their posterior.
        """
        npho, live = events.batch.npho.double(), events.live
        if bool((asked & live).any()):
            raise ValueError("a live sensor's light is not to be predicted")
        efficiency = events.batch.efficiency

        def density(z: Tensor) -> tuple[Tensor, Tensor]:
            z = z.detach().requires_grad_()
            likelihood = self.laplace.readings.log_likelihood(npho, live, self.light(z), efficiency)
            value = likelihood - 0.5 * z.square().sum(-1)
            (gradient,) = torch.autograd.grad(value.sum(), z)
            if region is not None:
                value = torch.where((region(z) > 0).all(-1), value, -torch.inf)
            return value.detach(), gradient

        def margins(z: Tensor) -> Tensor:
            walls = self.laplace.model.margins(z)
            return walls if region is None else torch.cat([walls, region(z)], dim=-1)

        series: list[Tensor] = []
        gammas: list[Tensor] = []

        def keep(z: Tensor) -> None:
            with torch.no_grad():
                series.append(self.light(z)[asked])
                gammas.append(gamma_quantities(self.laplace.model.gammas(z)))

        def mass(points: list[Tensor]) -> Tensor:
            return self._mass(events, points)

        chains = run_chains(density, events.z, mass, self.settings, rng, keep, margins)
        event, channel = asked.nonzero(as_tuple=True)
        light, gamma = torch.stack(series), torch.stack(gammas)
        mean, variance, effective = _moments(light)
        of_gamma = [part.view(gamma.shape[1:]) for part in _moments(gamma.flatten(1))]
        median = light.median(0).values
        absolute = (light - median).abs().mean(0)
        return Posterior(
            event=event,
            channel=channel,
            mean=mean,
            median=median,
            variance=variance,
            absolute=absolute,
            effective=effective,
            gamma_mean=of_gamma[0],
            gamma_variance=of_gamma[1],
            gamma_effective=of_gamma[2],
            chains=chains,
        )

    def _mass(self, events: KnownEvents, points: list[Tensor]) -> Tensor:
        """Information (B, S, S), the mean over some of the points; prior included."""
        chosen = points[:: max(1, len(points) // _MASS_POINTS)]
        return torch.stack([self._information(events, z) for z in chosen]).mean(0)

    def _information(self, events: KnownEvents, points: Tensor) -> Tensor:
        parts = []
        for first in range(0, len(points), _EVENTS_AT_ONCE):
            rows = slice(first, first + _EVENTS_AT_ONCE)
            some, jacobian = events[rows], self.laplace.jacobians(points[rows])
            parts.append(self.laplace.information(jacobian, some, some.live))
        return torch.cat(parts)


def _moments(series: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and effective draws (K,) of series (T, K).

    The variance is that of the target: the spread around the series' own mean is too small by
    the variance of that mean, one part in the effective draws.
    """
    effective = effective_draws(series)
    if series.numel() == 0:
        return effective, effective, effective
    spread = series.var(0, correction=0)
    return series.mean(0), spread / (1.0 - 1.0 / effective.clamp(min=2.0)), effective
