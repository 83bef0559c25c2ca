"""Hamiltonian Monte Carlo for many independent targets side by side.

Duane et al., Phys. Lett. B 195 (1987) 216; Neal, Handbook of Markov Chain Monte Carlo (2011),
chapter 5. Each target has its own mass matrix, so that all directions are about one unit wide.

Where the density jumps, trajectories that cross the jump would nearly all be rejected. They are
reflected instead, as in Galilean Monte Carlo (Skilling, AIP Conf. Proc. 1443 (2012) 145): a step
that lands beyond the wall has its velocity mirrored there and goes on once more. The way back
lands on the same point beyond the wall, so that the map stays reversible and keeps volumes.
Reflected trajectories never change sides; every other one is short and may cross.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Density = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From points (B, S) to the logarithm of the density (B,) and its gradient (B, S)."""

Mass = Callable[[list[Tensor]], Tensor]
"""From some points (B, S) of each target's chain to its mass matrix, (B, S, S)."""

Margins = Callable[[Tensor], Tensor]
"""From points (B, S) to differentiable distances (B, W) from walls, on either side of zero."""

_REFRESHES = 2  # of the mass matrix in the warm-up
_ADAPTATION = 0.15  # of the step's logarithm per unit of acceptance, while it warms up
_FARTHEST = 1000.0  # coordinate beyond which a trajectory is given up
_RUNAWAY = 1000.0  # change of the logarithm of the density after which a trajectory is given up


@dataclass(frozen=True, slots=True)
class HmcSettings:
    """How the chains run.

    Args:
        draws: points kept of each chain, one per trajectory.
        warm_up: trajectories before them, in which the steps adapt; not kept.
        leapfrog: steps of a trajectory.
        crossing: steps of the short trajectory that goes before it and may cross walls.
        step: their first length, in units of the target's width.
        acceptance: that the warm-up aims at.
        metropolis: whether trajectories are accepted or rejected; without, the leapfrog's error
            stays in the answer (only tests switch it off).
    """

    draws: int = 200
    warm_up: int = 60
    leapfrog: int = 16
    crossing: int = 2
    step: float = 0.2
    acceptance: float = 0.75
    metropolis: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """What B chains gave."""

    accepted: Tensor  # (B,) mean probability of acceptance of the kept draws
    step: Tensor  # (B,) final step


@dataclass(slots=True, eq=False)
class _State:
    z: Tensor
    value: Tensor
    gradient: Tensor

    def replace(self, other: _State, accept: Tensor) -> None:
        row = accept.unsqueeze(-1)
        self.z = torch.where(row, other.z, self.z)
        self.value = torch.where(accept, other.value, self.value)
        self.gradient = torch.where(row, other.gradient, self.gradient)


def run_chains(
    density: Density,
    start: Tensor,
    mass: Mass,
    settings: HmcSettings,
    rng: torch.Generator,
    keep: Callable[[Tensor], None],
    margins: Margins | None = None,
) -> Chains:
    """Run one chain per target.

    Args:
        density: of all targets at once.
        start: (B, S) where the chains start.
        mass: see `Mass`; asked at the start and again in the warm-up, at the points seen so far.
        settings: of the chains.
        rng: for momenta and acceptance.
        keep: is given the points (B, S) after each trajectory past the warm-up.
        margins: walls where the density jumps.
    """
    factor = torch.linalg.cholesky(mass([start]))
    seen: list[Tensor] = []
    state = _State(start, *density(start))
    step = torch.full((len(start),), settings.step, dtype=start.dtype)
    accepted = torch.zeros_like(step)
    for index in range(settings.warm_up + settings.draws):
        move = _Move(density, factor, step, settings.metropolis, rng)
        if margins is not None:
            move(state, settings.crossing, None)
        chance = move(state, settings.leapfrog, margins)
        if index < settings.warm_up:
            step = step * torch.exp(_ADAPTATION * (chance - settings.acceptance))
            seen.append(state.z)
            if len(seen) == settings.warm_up // (_REFRESHES + 1):
                factor, seen = torch.linalg.cholesky(mass(seen)), []
        else:
            accepted += chance / settings.draws
            keep(state.z)
    return Chains(accepted, step)


@dataclass(frozen=True, slots=True, eq=False)
class _Move:
    """Trajectories in coordinates whitened by the Cholesky factor L of the mass matrix."""

    density: Density
    factor: Tensor  # (B, S, S)
    step: Tensor  # (B,)
    metropolis: bool
    rng: torch.Generator

    def __call__(self, state: _State, steps: int, margins: Margins | None) -> Tensor:
        """Move `state` along one trajectory; the probability (B,) of its acceptance."""
        z = state.z
        momentum = torch.randn(z.shape, generator=self.rng, dtype=z.dtype)
        jitter, drawn = torch.rand(2, len(z), generator=self.rng, dtype=z.dtype)
        step = self.step * (0.6 + 0.6 * jitter)
        moved, after = self._trajectory(state, momentum, step, steps, margins)
        kinetic = 0.5 * (momentum.square() - after.square()).sum(-1)
        chance = (moved.value - state.value + kinetic).clamp(max=0.0).exp().nan_to_num(0.0)
        state.replace(moved, (drawn < chance) | (not self.metropolis))
        return chance

    def _trajectory(
        self, start: _State, momentum: Tensor, step: Tensor, steps: int, margins: Margins | None
    ) -> tuple[_State, Tensor]:
        """End of a trajectory and the momentum there.

        A trajectory that runs away stays where it is; its end has no density.
        """
        z, value, gradient = start.z, start.value, start.gradient
        sane = torch.ones_like(step, dtype=torch.bool)
        for _ in range(steps):
            length = torch.where(sane, step, 0.0).unsqueeze(-1)
            momentum = momentum + 0.5 * length * self._whitened(gradient)
            z, momentum, inside = self._drift(z, momentum, length, margins)
            value, gradient = self.density(z)
            tame = (value - start.value).abs() < _RUNAWAY
            sane = sane & inside & tame & gradient.isfinite().all(-1)
            gradient = torch.where(sane.unsqueeze(-1), gradient, 0.0)
            momentum = momentum + 0.5 * length * self._whitened(gradient)
        return _State(z, torch.where(sane, value, -torch.inf), gradient), momentum

    def _drift(
        self, z: Tensor, momentum: Tensor, length: Tensor, margins: Margins | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Point and momentum after a step, reflected at walls; whether it stayed inside."""
        moved, near = self._moved(z, momentum, length)
        if margins is None:
            return moved, momentum, near
        side = margins(z) > 0
        crossed = (margins(moved) > 0) != side  # (B, W)
        bounced = crossed.any(-1)
        if not bool(bounced.any()):
            return moved, momentum, near
        with torch.enable_grad():
            point = moved.detach().requires_grad_()
            (slope,) = torch.autograd.grad((margins(point) * crossed).sum(), point)
        normal = self._whitened(slope)
        along = (normal * momentum).sum(-1, keepdim=True)
        mirrored = momentum - 2.0 * along * normal / normal.square().sum(-1, keepdim=True)
        momentum = torch.where(bounced.unsqueeze(-1), mirrored, momentum)
        back, still_near = self._moved(moved, momentum, length)
        moved = torch.where(bounced.unsqueeze(-1), back, moved)
        inside = ((margins(moved) > 0) == side).all(-1)
        return moved, momentum, inside & near & (still_near | ~bounced)

    def _moved(self, z: Tensor, momentum: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """A step on, and whether it led to a point near enough to be one; else it is not made."""
        moved = z + length * _solve(self.factor, momentum, transposed=True)
        near = (moved.abs() < _FARTHEST).all(-1)  # false where it is no number
        return torch.where(near.unsqueeze(-1), moved, z), near

    def _whitened(self, gradient: Tensor) -> Tensor:
        return _solve(self.factor, gradient, transposed=False)


def _solve(factor: Tensor, vector: Tensor, *, transposed: bool) -> Tensor:
    """Solve L x = vector or L^T x = vector for each target."""
    matrix = factor.mT if transposed else factor
    solved: Tensor = torch.linalg.solve_triangular(matrix, vector.unsqueeze(-1), upper=transposed)
    return solved.squeeze(-1)


def effective_draws(series: Tensor) -> Tensor:
    """Independent draws (K,) that correlated series (T, K) are worth, at most T.

    Autocorrelations are summed in pairs while the pairs are positive (Geyer, Stat. Sci. 7 (1992)
    473). A constant series counts as one draw.
    """
    T = len(series)
    if series.numel() == 0:
        return series.new_zeros(series.shape[1:])
    centred = series - series.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * T, dim=0).abs().square()
    covariance = torch.fft.irfft(spectrum, dim=0)[:T]
    correlation = covariance / covariance[:1].clamp(min=1e-300)
    pairs = correlation[: T - T % 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).cumprod(0)
    time = 2.0 * (pairs * positive).sum(0) - 1.0
    return torch.where(covariance[0] > 0, T / time.clamp(min=1.0), 1.0)
