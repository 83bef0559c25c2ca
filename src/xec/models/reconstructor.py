"""The whole network: raw readings of an event to every sensor's light and the gamma, with sigmas.

Reads top to bottom: encoder, sources of the light, dense heads, gamma heads, physical units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from xec.contract import OUTPUTS
from xec.detector.channels import N_CHANNELS, Face
from xec.models import moments
from xec.models.calibration import SigmaScale
from xec.models.encoder import Encoded, Encoder
from xec.models.face_group import ChannelOrder
from xec.models.frontend import (
    ROOT_UNIT,
    Readings,
    npho_of_root,
    npho_per_root,
    root_of_npho,
)
from xec.models.heads import GammaHead, SensorHead
from xec.models.light_fit import Fit, LightFit
from xec.models.noise import ReadingNoise
from xec.models.precision import full_precision

SpreadKind = Literal["detached", "shared", "separate"]
"""What the spreads see: the encoder's features, detached; the same with their gradient; or the
features of an encoder of their own (Stirn's separate networks)."""

MEANS: Final = 4  # per sensor: root count, time, trust in the fit, trust in its local scale
SPREADS: Final = 2  # per sensor: root count, time
HINTS: Final = 3  # per sensor: the neighbours' mean, the fit, the fit scaled to the neighbours

# What a network output of one means: corrections of order one are easy to learn.
ROOT_STEP: Final = 4.0
TIME_STEP: Final = 1.0  # ns
UVW_STEP: Final = 3.0  # cm
ENERGY_STEP: Final = 0.2  # relative
GAMMA_TIME_STEP: Final = 0.3  # ns
ANGLE_STEP: Final = 3.0  # degrees
ROOT_MIN: Final = 0.1
SCALE_GUARD: Final = 1.0  # photons; steadies the local scale where there is little light
PHOTONS_PER_MEV: Final = 1.8e3  # start of the learned light scale


class Prediction(NamedTuple):
    """What the network says, in the form that the losses want.

    Every `*_log_sigma` is the logarithm of a standard deviation in the unit of its mean. The
    root count is that of `xec.models.frontend.root_of_npho`.
    """

    root: Tensor  # (B, 4760)
    root_log_sigma: Tensor
    time: Tensor  # (B, 4760) ns, zero as in the input
    time_log_sigma: Tensor
    energy: Tensor  # (B, 1) MeV
    energy_log_sigma: Tensor
    gamma_time: Tensor  # (B, 1) ns, zero as in the input
    gamma_time_log_sigma: Tensor
    uvw: Tensor  # (B, 3) cm
    uvw_log_sigma: Tensor
    angle: Tensor  # (B, 2) degrees
    angle_log_sigma: Tensor
    root_noise: Tensor | None  # (B, 4760) variance of a reading's root count, if it is modelled


class Gamma(NamedTuple):
    """Energy (B, 1) in MeV, time (B, 1) in ns and direction (B, 2) in degrees."""

    energy: Tensor
    time: Tensor
    angle: Tensor


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """Token width D and width of the gamma heads."""

    width: int
    hidden: int


class Reconstructor(nn.Module):
    """Encoder and heads.

    Args:
        encoder: raw readings to features and tokens.
        light_moments: conventional sums of light.
        flight_time: conventional time of the gamma.
        light_fit: sources of the light and what they shine on every sensor.
        sizes: of the heads.
        spread: what the spreads see, see `SpreadKind`.
        spread_encoder: their own encoder, where `spread` is "separate".
        noise: of a reading, as a floor of every sensor's spread; None leaves it to be learned.
    """

    def __init__(
        self,
        encoder: Encoder,
        light_moments: moments.LightMoments,
        flight_time: moments.FlightTime,
        light_fit: LightFit,
        sizes: HeadSizes,
        spread: SpreadKind = "detached",
        spread_encoder: Encoder | None = None,
        noise: ReadingNoise | None = None,
    ) -> None:
        super().__init__()
        if (spread == "separate") != (spread_encoder is not None):
            raise ValueError("an encoder of the spreads belongs to spread='separate'")
        self.encoder = encoder
        self.spread_encoder = spread_encoder
        self.spread_noise = noise
        self.spread = spread
        self.light_moments = light_moments
        self.flight_time = flight_time
        self.light_fit = light_fit
        groups = encoder.face_groups
        self.sensor_heads = nn.ModuleList(
            SensorHead(g.network.channels, g.network.sensors, HINTS, MEANS, SPREADS) for g in groups
        )
        features = len(Face) * sizes.width + moments.MOMENT_FEATURES + light_fit.features
        self.place_head = GammaHead(features, sizes.hidden, means=3, spreads=3)
        self.gamma_head = GammaHead(features + 3, sizes.hidden, means=4, spreads=4)
        self.log_light_yield = nn.Parameter(torch.tensor(PHOTONS_PER_MEV).log())
        self.sigma_scale = SigmaScale()
        self.channel_order = ChannelOrder(groups, N_CHANNELS)

    def forward(
        self, npho: Tensor, time: Tensor, npho_valid: Tensor, time_valid: Tensor
    ) -> dict[str, Tensor]:
        """The contract: raw tensors (B, 4760) to physical ones, named as `xec.contract.OUTPUTS`."""
        prediction = self.predict(npho, time, npho_valid, time_valid)
        return self.sigma_scale(to_physical(prediction))  # type: ignore[no-any-return]

    def predict(
        self, npho: Tensor, time: Tensor, npho_valid: Tensor, time_valid: Tensor
    ) -> Prediction:
        """The same in the form that the losses want."""
        encoded = self.encoder(npho, time, npho_valid, time_valid)
        spreads = encoded
        if self.spread_encoder is not None:
            spreads = self.spread_encoder(npho, time, npho_valid, time_valid)
        with full_precision(npho):
            return self._read(encoded, spreads)

    def _for_spread(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        """What the spreads see in place of `x`; `own` is what an encoder of theirs made of it."""
        if self.spread == "shared":
            return x
        return x.detach() if own is None or self.spread_encoder is None else own

    def _read(self, encoded: Encoded, spreads: Encoded) -> Prediction:
        readings = encoded.readings
        summary = encoded.tokens.flatten(1)  # (B, T D)
        spread_summary = self._for_spread(summary, spreads.tokens.flatten(1))
        light, fit = self._light(readings, summary)
        uvw, uvw_log_sigma = self._place(light, fit, summary, spread_summary)
        hints = self._hints(readings, fit)
        mean, log_sigma = self._sensors(encoded, spreads, hints)
        root = self._root(readings, hints, mean)
        noise = self._noise(root)
        gamma, gamma_log_sigma = self._gamma(readings, root, uvw, fit, summary, spread_summary)
        return Prediction(
            root=root,
            root_log_sigma=_above_floor(log_sigma[:, 0], noise),
            time=readings.time_guess + TIME_STEP * mean[:, 1] + readings.zero,
            time_log_sigma=log_sigma[:, 1],
            energy=gamma.energy,
            energy_log_sigma=gamma_log_sigma[:, :1],
            gamma_time=gamma.time,
            gamma_time_log_sigma=gamma_log_sigma[:, 1:2],
            uvw=uvw,
            uvw_log_sigma=uvw_log_sigma,
            angle=gamma.angle,
            angle_log_sigma=gamma_log_sigma[:, 2:],
            root_noise=noise,
        )

    def _light(self, readings: Readings, summary: Tensor) -> tuple[moments.Moments, Fit]:
        """Conventional sums of light, and the sources fitted to it."""
        valid = readings.npho_valid
        guess = npho_of_root(readings.root_guess)
        light = self.light_moments(torch.where(valid > 0, readings.npho, guess))
        context = torch.cat([summary, light.features], dim=1)
        return light, self.light_fit(readings.npho, valid, guess, light.uv, context)

    def _place(
        self, light: moments.Moments, fit: Fit, summary: Tensor, spread_summary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Position of the conversion and its log sigma."""
        spread_features = self._for_spread(fit.features)
        step, log_sigma = self.place_head(
            torch.cat([summary, light.features, fit.features], dim=1),
            torch.cat([spread_summary, light.features, spread_features], dim=1),
        )
        depth = torch.full_like(light.total, moments.DEPTH_GUESS)
        return torch.cat([light.uv, depth], dim=1) + UVW_STEP * step, log_sigma

    def _hints(self, readings: Readings, fit: Fit) -> Tensor:
        """Guesses of the root count (B, HINTS, 4760) in units of order one."""
        neighbours = self.encoder.front_end.neighbours
        measured = neighbours(readings.npho, readings.npho_valid).clamp(min=0.0)
        expected = neighbours(fit.light, readings.npho_valid)
        scaled = fit.light * ((measured + SCALE_GUARD) / (expected + SCALE_GUARD))
        roots = [readings.root_guess, root_of_npho(fit.light), root_of_npho(scaled)]
        return (torch.stack(roots, dim=1) - 2.0) / ROOT_UNIT

    def _sensors(self, encoded: Encoded, spreads: Encoded, hints: Tensor) -> tuple[Tensor, Tensor]:
        """Means (B, MEANS, 4760) and log sigmas (B, SPREADS, 4760) of the sensor heads."""
        spread_hints = self._for_spread(hints)
        means, log_sigmas = [], []
        for index, group in enumerate(self.encoder.face_groups):
            x = encoded.features[index]
            mean, log_sigma = self.sensor_heads[index](
                x,
                group.to_cells(hints),
                self._for_spread(x, spreads.features[index]),
                group.to_cells(spread_hints),
            )
            means.append(group.to_sensors(mean))
            log_sigmas.append(group.to_sensors(log_sigma))
        return self.channel_order(means), self.channel_order(log_sigmas)

    def _root(self, readings: Readings, hints: Tensor, mean: Tensor) -> Tensor:
        """The guesses, mixed by the learned trust, and corrected."""
        trust, local = torch.sigmoid(mean[:, 2:4]).unbind(1)
        fitted = hints[:, 1] + local * (hints[:, 2] - hints[:, 1])
        mixed = readings.root_guess + ROOT_UNIT * trust * (fitted - hints[:, 0])
        return (mixed + ROOT_STEP * mean[:, 0]).clamp(min=ROOT_MIN)

    def _noise(self, root: Tensor) -> Tensor | None:
        """Variance of the root count of a reading around its expected light, or None."""
        if self.spread_noise is None:
            return None
        root = self._for_spread(root)
        variance: Tensor = self.spread_noise(npho_of_root(root))
        return variance / npho_per_root(root).square()

    def _gamma(
        self,
        readings: Readings,
        root: Tensor,
        uvw: Tensor,
        fit: Fit,
        summary: Tensor,
        spread_summary: Tensor,
    ) -> tuple[Gamma, Tensor]:
        """Energy, time and direction, and the log sigmas (B, 4) of their components."""
        filled = torch.where(readings.npho_valid > 0, readings.npho, npho_of_root(root.detach()))
        light = self.light_moments(filled)
        uvw = uvw.detach()
        known = torch.cat([light.features, moments.uvw_features(uvw)], dim=1)
        step, log_sigma = self.gamma_head(
            torch.cat([summary, known, fit.features], dim=1),
            torch.cat([spread_summary, known, self._for_spread(fit.features)], dim=1),
        )
        xyz = moments.xyz_of_uvw(uvw)
        weight = readings.npho.clamp(min=0.0) * readings.time_valid
        start = self.flight_time(readings.time, weight, xyz) + readings.zero
        scale = torch.exp(ENERGY_STEP * step[:, :1] - self.log_light_yield)
        gamma = Gamma(
            energy=light.total * scale,
            time=start + GAMMA_TIME_STEP * step[:, 1:2],
            angle=moments.angles_of_xyz(xyz) + ANGLE_STEP * step[:, 2:],
        )
        return gamma, log_sigma


def _above_floor(log_sigma: Tensor, floor: Tensor | None) -> Tensor:
    """Log sigma with the variance `floor` added in quadrature."""
    if floor is None:
        return log_sigma
    return 0.5 * torch.log(floor + torch.exp(2.0 * log_sigma))


def to_physical(prediction: Prediction) -> dict[str, Tensor]:
    """A `Prediction` in physical units, keyed and ordered as the contract's outputs."""
    p = prediction
    values = {
        "npho_mean": npho_of_root(p.root),
        "npho_sigma": npho_per_root(p.root) * p.root_log_sigma.exp(),
        "time_mean": p.time,
        "time_sigma": p.time_log_sigma.exp(),
        "energy": p.energy,
        "energy_sigma": p.energy_log_sigma.exp(),
        "gamma_time": p.gamma_time,
        "gamma_time_sigma": p.gamma_time_log_sigma.exp(),
        "uvw": p.uvw,
        "uvw_sigma": p.uvw_log_sigma.exp(),
        "angle": p.angle,
        "angle_sigma": p.angle_log_sigma.exp(),
    }
    return {tensor.name: values[tensor.name] for tensor in OUTPUTS}
