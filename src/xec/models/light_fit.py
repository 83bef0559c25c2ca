"""A few point sources fitted to the light of an event, by a learned iteration in the graph.

The deposits of a shower are what shapes the light on the sensors nearest to it, and a neighbours'
mean knows nothing of them. K sources start on the ray through the light's centre and are moved in
a fixed number of steps. In each the gradient of the likelihood and its Fisher information, for
place and strength of every source, tell a small network where to go (learned iterative
reconstruction: Adler & Oktem, arXiv:1704.04058; Andrychowicz et al., arXiv:1606.04474); strengths
then take one step of expectation maximisation (Shepp & Vardi 1982).

The steps look at the brightest part of the detector only. It is chosen by the neighbours' means,
not by the readings themselves, which would prefer upward fluctuations, and fades out smoothly, so
that two sensors of nearly the same brightness may change places without a jump.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.detector.coordinates import REFF
from xec.models.light_map import LightMap, Sensors
from xec.models.moments import xyz_of_uvw

START_DEPTHS: Final = (1.0, 2.5, 4.5, 7.0, 10.0, 14.0)  # cm
SENSORS: Final = 640  # that the steps look at
FADE: Final = 0.5  # of the dimmest chosen brightness, over which weights rise from 0 to 1
DEPTH_MIN: Final = 0.15  # cm
DEPTH_UNIT: Final = 10.0  # cm
PLACE_STEP: Final = 1.0  # cm
STRENGTH_STEP: Final = 0.5  # of the logarithm
READING_VARIANCE: Final = (20.0, 11.0, 4e-4)
"""Variance of a reading of n photons, c0 + c1 n + c2 n^2: pedestal, photoelectrons, gain."""
STATE: Final = 16  # features of a source in a step


class Sources(NamedTuple):
    """K point sources of B events."""

    uvw: Tensor  # (B, K, 3) cm
    log_strength: Tensor  # (B, K) logarithm of the photons they emit


class Fit(NamedTuple):
    """The sources, their light, and what the heads of the gamma want to know of them."""

    sources: Sources
    light: Tensor  # (B, N) photons
    features: Tensor  # (B, 4 K + 1)


class _Seen(NamedTuple):
    """The chosen sensors: places, readings (B, 1, M) and weights (B, 1, M)."""

    sensors: Sensors
    npho: Tensor
    weight: Tensor


class _Score(NamedTuple):
    """Gradient of the log likelihood and Fisher information in (x, y, z, log strength)."""

    gradient: Tensor  # (B, K, 4)
    information: Tensor  # (B, K, 4)


class LightFit(nn.Module):
    """The learned fit.

    Args:
        light_map: from sources to sensors.
        context: features that describe the event to the steps.
        hidden: width of the steps' networks.
        steps: how many; each has weights of its own.
    """

    def __init__(self, light_map: LightMap, context: int, hidden: int, steps: int) -> None:
        super().__init__()
        self.light_map = light_map
        sources = len(START_DEPTHS)
        self.features = 4 * sources + 1  # of a `Fit`
        self.register_buffer("start_depth", torch.tensor(START_DEPTHS), persistent=False)
        self.start_depth: Tensor
        self.context = nn.Sequential(nn.LayerNorm(context), nn.Linear(context, hidden))
        self.start = nn.Linear(hidden, 4 * sources)
        self.read = nn.ModuleList(nn.Linear(STATE * sources, hidden) for _ in range(steps))
        self.hidden = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(steps))
        self.move = nn.ModuleList(nn.Linear(hidden, 4 * sources) for _ in range(steps))
        self.newton = nn.Parameter(torch.full((steps, 4), -1.0))
        for last in (self.start, *self.move):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, npho: Tensor, valid: Tensor, brightness: Tensor, uv: Tensor, context: Tensor
    ) -> Fit:
        """Fit the visible counts.

        Args:
            npho: (B, N) photons, 0 where not valid.
            valid: (B, N) 0 or 1.
            brightness: (B, N) smooth estimate of the light, for the choice of sensors.
            uv: (B, 2) cm, centre of the light.
            context: (B, C) of the event.
        """
        seen = self._choose(npho, valid, brightness)
        context = functional.gelu(self.context(context))
        sources = self._begin(seen, uv, context)
        for index in range(len(self.read)):
            sources = self._step(index, sources, seen, context)
        share = self.light_map(_xyz(sources.uvw), self.light_map.all_sensors())
        light = (sources.log_strength.exp().unsqueeze(1) @ share).squeeze(1)
        misfit = self._misfit(sources, seen)
        features = torch.cat([_described(sources, uv).flatten(1), misfit], dim=1)
        return Fit(sources, light, features)

    def _choose(self, npho: Tensor, valid: Tensor, brightness: Tensor) -> _Seen:
        value, channel = brightness.detach().topk(SENSORS, dim=1)
        least = value[:, -1:].clamp(min=1e-3)
        fade = ((value / least - 1.0) / FADE).clamp(0.0, 1.0)
        weight = fade * valid.gather(1, channel)
        return _Seen(
            self.light_map.chosen(channel),
            npho.gather(1, channel).unsqueeze(1),
            weight.unsqueeze(1),
        )

    def _begin(self, seen: _Seen, uv: Tensor, context: Tensor) -> Sources:
        """Sources on the ray from the target through the light's centre, equally strong."""
        B, K = uv.shape[0], len(START_DEPTHS)
        start = self.start(context).view(B, K, 4)
        depth = self.start_depth.expand(B, K).unsqueeze(-1)
        place = torch.cat([uv.unsqueeze(1).expand(B, K, 2), depth], dim=-1)
        uvw = _inside(place + PLACE_STEP * start[..., :3])
        log_strength = STRENGTH_STEP * start[..., 3]
        share = self.light_map(_xyz(uvw), seen.sensors)
        expected = (log_strength.exp().unsqueeze(-1) * share).sum(1, keepdim=True)
        measured = (seen.npho * seen.weight).sum((1, 2)).clamp(min=1.0)
        of_one = (expected * seen.weight).sum((1, 2)).clamp(min=1e-3)
        scale = torch.log(measured / of_one)
        return Sources(uvw, log_strength + scale.unsqueeze(-1))

    def _step(self, index: int, sources: Sources, seen: _Seen, context: Tensor) -> Sources:
        score, sources = self._score(sources, seen)
        root = (score.information + 1.0).sqrt()
        pull = (score.gradient / root).clamp(-50.0, 50.0)
        newton = torch.tanh(pull / root / PLACE_STEP)
        state = torch.cat(
            [
                torch.asinh(pull),
                torch.log(root) / 4.0,
                newton,
                _described(sources, sources.uvw[..., :2].mean(1)),
            ],
            dim=-1,
        )
        hidden = functional.gelu(self.read[index](state.flatten(1)) + context)
        hidden = functional.gelu(self.hidden[index](hidden)) + hidden
        move = self.move[index](hidden).view_as(newton)
        move = move + torch.sigmoid(self.newton[index]) * newton
        return Sources(
            _inside(sources.uvw + PLACE_STEP * _to_uvw(move[..., :3], sources.uvw)),
            sources.log_strength + STRENGTH_STEP * move[..., 3],
        )

    def _score(self, sources: Sources, seen: _Seen) -> tuple[_Score, Sources]:
        """Gradient and information at the sources, whose strengths take one step of EM."""
        share, slope = self.light_map.with_slope(_xyz(sources.uvw), seen.sensors)
        light = sources.log_strength.exp().unsqueeze(-1) * share  # (B, K, M)
        expected = light.sum(1, keepdim=True) + 1.0
        part = light * seen.weight
        gain = (part * (seen.npho / expected)).sum(-1) / (part.sum(-1) + 1e-3)
        precision = seen.weight / _reading_variance(expected)
        residual = (seen.npho - expected) * precision
        first, second = residual * light, precision * light.square()
        rows = [*slope, torch.ones_like(light)]
        gradient = torch.stack([(first * row).sum(-1) for row in rows], dim=-1)
        information = torch.stack([(second * row.square()).sum(-1) for row in rows], dim=-1)
        strength = sources.log_strength + 0.5 * torch.log(gain.clamp(0.1, 10.0))
        return _Score(gradient, information), Sources(sources.uvw, strength)

    def _misfit(self, sources: Sources, seen: _Seen) -> Tensor:
        """Logarithm of the reduced chi square of the chosen sensors (B, 1)."""
        share = self.light_map(_xyz(sources.uvw), seen.sensors)
        expected = (sources.log_strength.exp().unsqueeze(-1) * share).sum(1, keepdim=True)
        pull2 = (seen.npho - expected).square() / _reading_variance(expected)
        mean = (pull2 * seen.weight).sum((1, 2)) / (seen.weight.sum((1, 2)) + 1e-3)
        return torch.log(mean + 0.1).unsqueeze(-1)


def _reading_variance(light: Tensor) -> Tensor:
    """Variance of readings of the expected `light`, photons squared."""
    constant, linear, quadratic = READING_VARIANCE
    return constant + (linear + quadratic * light) * light


def _inside(uvw: Tensor) -> Tensor:
    """Places (B, K, 3) behind the inner face."""
    return torch.cat([uvw[..., :2], uvw[..., 2:].clamp(min=DEPTH_MIN)], dim=-1)


def _xyz(uvw: Tensor) -> Tensor:
    return xyz_of_uvw(uvw.flatten(0, 1)).view_as(uvw)


def _to_uvw(step: Tensor, uvw: Tensor) -> Tensor:
    """Steps (B, K, 3) along x, y, z as steps along u, v, w at the places `uvw`."""
    x, y, z = step.unbind(-1)
    angle = uvw[..., 1] / REFF
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([z, x * sin + y * cos, y * sin - x * cos], dim=-1)


def _described(sources: Sources, uv: Tensor) -> Tensor:
    """Four features of order one of each source, (B, K, 4): place by `uv` (B, 2), strength."""
    centred = (sources.uvw[..., :2] - uv.unsqueeze(1)) / DEPTH_UNIT
    depth = sources.uvw[..., 2:] / DEPTH_UNIT
    return torch.cat([centred, depth, (sources.log_strength.unsqueeze(-1) - 10.0) / 3.0], dim=-1)
