"""The whole network: raw readings of an event to every sensor's light and the gamma, with sigmas.

Reads top to bottom: front-end, faces, fusion, dense heads, gamma heads, physical units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import torch
from torch import Tensor, nn

from xec.contract import OUTPUTS
from xec.detector.channels import N_CHANNELS, Face
from xec.models import moments
from xec.models.calibration import SigmaScale
from xec.models.face_group import FaceGroup
from xec.models.frontend import (
    ROOT_UNIT,
    FrontEnd,
    Readings,
    npho_of_root,
    npho_per_root,
    root_of_npho,
)
from xec.models.fusion import Fusion
from xec.models.heads import GammaHead
from xec.models.point_source import PointSource
from xec.models.precision import at_least_float32

# What a network output of one means: corrections of order one are easy to learn.
ROOT_STEP: Final = 4.0
TIME_STEP: Final = 1.0  # ns
UVW_STEP: Final = 3.0  # cm
ENERGY_STEP: Final = 0.2  # relative
GAMMA_TIME_STEP: Final = 0.3  # ns
ANGLE_STEP: Final = 3.0  # degrees
ROOT_MIN: Final = 0.1
TRUST_OFFSET: Final = 2.0  # trust in the point source starts at 12 %
SOURCE_DEPTH_MIN: Final = 0.3  # cm
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


class Reconstructor(nn.Module):
    """Front-end, faces, fusion and heads.

    Args:
        front_end: raw readings to features.
        groups: the six faces, in groups that share a network.
        fusion: Transformer over the tokens, in the order of the groups' faces.
        light_moments: conventional sums of light.
        flight_time: conventional time of the gamma.
        point_source: conventional light of a point source.
        width: token width D.
        hidden: width of the gamma heads.
    """

    def __init__(
        self,
        front_end: FrontEnd,
        groups: Sequence[FaceGroup],
        fusion: Fusion,
        light_moments: moments.LightMoments,
        flight_time: moments.FlightTime,
        point_source: PointSource,
        width: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.front_end = front_end
        self.groups = nn.ModuleList(groups)
        self.fusion = fusion
        self.light_moments = light_moments
        self.flight_time = flight_time
        self.point_source = point_source
        features = len(Face) * width + moments.MOMENT_FEATURES
        self.place_head = GammaHead(features, hidden, means=6, spreads=3)  # uvw, light centre
        self.gamma_head = GammaHead(features + 3, hidden, means=4, spreads=4)
        self.log_light_yield = nn.Parameter(torch.tensor(PHOTONS_PER_MEV).log())
        self.sigma_scale = SigmaScale()
        order = torch.cat([group.channels.reshape(-1) for group in groups])
        place = torch.empty(N_CHANNELS, dtype=torch.long)
        place[order] = torch.arange(N_CHANNELS)
        self.register_buffer("place", place, persistent=False)  # channel id -> read position
        self.place: Tensor

    @property
    def _groups(self) -> list[FaceGroup]:
        return cast("list[FaceGroup]", list(self.groups))

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
        readings = self.front_end(npho, time, npho_valid, time_valid)
        cells = [group.encode(readings.features) for group in self._groups]
        tokens = self._fuse([group.tokens(c) for group, c in zip(self._groups, cells, strict=True)])
        summary = at_least_float32(torch.cat(tokens, dim=1).flatten(1))  # (B, T D)
        uvw, uvw_log_sigma, source = self._place(readings, summary)
        hints = self._hints(readings, source)
        read = [
            group.read(c, t, hints) for group, c, t in zip(self._groups, cells, tokens, strict=True)
        ]
        mean = torch.cat([r[0] for r in read], dim=-1).index_select(
            2, self.place
        )  # (B, MEANS, 4760)
        log_sigma = torch.cat([r[1] for r in read], dim=-1).index_select(2, self.place)
        root = self._root(readings, hints, mean)
        sensor_time = readings.time_guess + TIME_STEP * mean[:, 1] + readings.zero
        energy, energy_log_sigma, when, when_log_sigma, angle, angle_log_sigma = self._gamma(
            readings, root, uvw, summary
        )
        return Prediction(
            root=root,
            root_log_sigma=log_sigma[:, 0],
            time=sensor_time,
            time_log_sigma=log_sigma[:, 1],
            energy=energy,
            energy_log_sigma=energy_log_sigma,
            gamma_time=when,
            gamma_time_log_sigma=when_log_sigma,
            uvw=uvw,
            uvw_log_sigma=uvw_log_sigma,
            angle=angle,
            angle_log_sigma=angle_log_sigma,
        )

    def _fuse(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Let the tokens of all groups, each (B, G, D), see each other."""
        fused = self.fusion(torch.cat(list(tokens), dim=1))
        return list(torch.split(fused, [t.shape[1] for t in tokens], dim=1))

    def _place(self, readings: Readings, summary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Position of the conversion, its log sigma, and x, y, z of the light's centre."""
        guess = npho_of_root(readings.root_guess)
        filled = torch.where(readings.npho_valid > 0, readings.npho, guess)
        light = self.light_moments(filled)
        step, log_sigma = self.place_head(torch.cat([summary, light.features], dim=1))
        depth = torch.full_like(light.total, moments.DEPTH_GUESS)
        guess = torch.cat([light.uv, depth], dim=1)
        centre = guess + UVW_STEP * step[:, 3:]
        centre = torch.cat([centre[:, :2], centre[:, 2:].clamp(min=SOURCE_DEPTH_MIN)], dim=1)
        return guess + UVW_STEP * step[:, :3], log_sigma, moments.xyz_of_uvw(centre)

    def _hints(self, readings: Readings, source: Tensor) -> Tensor:
        """Guesses of the root count (B, HINTS, 4760) in units of order one."""
        light = self.point_source(readings.npho, readings.npho_valid, source)
        hints = torch.stack([readings.root_guess, root_of_npho(light)], dim=1)
        return (hints - 2.0) / ROOT_UNIT

    def _root(self, readings: Readings, hints: Tensor, mean: Tensor) -> Tensor:
        """Neighbours' mean and point source, mixed by the learned trust, and corrected."""
        trust = torch.sigmoid(mean[:, 2] - TRUST_OFFSET)
        mixed = readings.root_guess + ROOT_UNIT * trust * (hints[:, 1] - hints[:, 0])
        return (mixed + ROOT_STEP * mean[:, 0]).clamp(min=ROOT_MIN)

    def _gamma(
        self, readings: Readings, root: Tensor, uvw: Tensor, summary: Tensor
    ) -> tuple[Tensor, ...]:
        """Energy, time and angle, each with its log sigma."""
        filled = torch.where(readings.npho_valid > 0, readings.npho, npho_of_root(root.detach()))
        light = self.light_moments(filled)
        uvw = uvw.detach()
        features = torch.cat([summary, light.features, moments.uvw_features(uvw)], dim=1)
        step, log_sigma = self.gamma_head(features)
        xyz = moments.xyz_of_uvw(uvw)
        weight = readings.npho.clamp(min=0.0) * readings.time_valid
        start = self.flight_time(readings.time, weight, xyz) + readings.zero
        scale = torch.exp(ENERGY_STEP * step[:, :1] - self.log_light_yield)
        return (
            light.total * scale,
            log_sigma[:, :1],
            start + GAMMA_TIME_STEP * step[:, 1:2],
            log_sigma[:, 1:2],
            moments.angles_of_xyz(xyz) + ANGLE_STEP * step[:, 2:],
            log_sigma[:, 2:],
        )


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
