"""The whole network: raw readings of an event to every sensor's light and the gamma, with sigmas.

Reads top to bottom: front-end, faces, fusion, dense heads, gamma heads, physical units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from xec.contract import OUTPUTS
from xec.detector.channels import N_CHANNELS, Face
from xec.models import moments
from xec.models.calibration import SigmaScale
from xec.models.face_group import FaceGroup
from xec.models.frontend import FrontEnd, Readings, npho_of_root, npho_per_root
from xec.models.fusion import Fusion
from xec.models.heads import GammaHead

# What a network output of one means: corrections of order one are easy to learn.
ROOT_STEP: Final = 4.0
TIME_STEP: Final = 1.0  # ns
UVW_STEP: Final = 3.0  # cm
ENERGY_STEP: Final = 0.2  # relative
GAMMA_TIME_STEP: Final = 0.3  # ns
ANGLE_STEP: Final = 3.0  # degrees
ROOT_MIN: Final = 0.1
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
        width: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.front_end = front_end
        self.groups = nn.ModuleList(groups)
        self.fusion = fusion
        self.light_moments = light_moments
        self.flight_time = flight_time
        features = len(Face) * width + moments.MOMENT_FEATURES
        self.place_head = GammaHead(features, hidden, 3)
        self.gamma_head = GammaHead(features + 3, hidden, 4)  # energy, time, theta, phi
        self.log_light_yield = nn.Parameter(torch.tensor(PHOTONS_PER_MEV).log())
        self.sigma_scale = SigmaScale()
        order = torch.cat([group.channels.reshape(-1) for group in groups])
        place = torch.empty(N_CHANNELS, dtype=torch.long)
        place[order] = torch.arange(N_CHANNELS)
        self.register_buffer("place", place, persistent=False)  # channel id -> read position
        self.place: Tensor

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
        cells = [group.encode(readings.features) for group in self.groups]
        tokens = self.fuse([group.tokens(c) for group, c in zip(self.groups, cells, strict=True)])
        read = [
            group.read(c, t) for group, c, t in zip(self.groups, cells, tokens, strict=True)
        ]
        mean = torch.cat([r[0] for r in read], dim=-1)[:, :, self.place]  # (B, 2, 4760)
        log_sigma = torch.cat([r[1] for r in read], dim=-1)[:, :, self.place]
        root = (readings.root_guess + ROOT_STEP * mean[:, 0]).clamp(min=ROOT_MIN)
        sensor_time = readings.time_guess + TIME_STEP * mean[:, 1] + readings.zero
        sensors = (root, log_sigma[:, 0], sensor_time, log_sigma[:, 1])
        return Prediction(*sensors, *self._gamma(readings, root, torch.cat(tokens, dim=1)))

    def fuse(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Let the tokens of all groups, each (B, G, D), see each other."""
        fused = self.fusion(torch.cat(list(tokens), dim=1))
        return list(torch.split(fused, [t.shape[1] for t in tokens], dim=1))

    def _gamma(self, readings: Readings, root: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """Energy, time, position and angle with log sigmas, in the order of `Prediction`."""
        filled = torch.where(readings.npho_valid > 0, readings.npho, npho_of_root(root.detach()))
        light = self.light_moments(filled)
        features = torch.cat([tokens.flatten(1).float(), light.features], dim=1)
        place, place_log_sigma = self.place_head(features)
        depth = torch.full_like(light.total, moments.DEPTH_GUESS)
        uvw = torch.cat([light.uv, depth], dim=1) + UVW_STEP * place
        features = torch.cat([features, moments.uvw_features(uvw.detach())], dim=1)
        step, log_sigma = self.gamma_head(features)
        xyz = moments.xyz_of_uvw(uvw.detach())
        weight = readings.npho.clamp(min=0.0) * readings.time_valid
        start = self.flight_time(readings.time, weight, xyz) + readings.zero
        scale = torch.exp(ENERGY_STEP * step[:, :1] - self.log_light_yield)
        return (
            light.total * scale,
            log_sigma[:, :1],
            start + GAMMA_TIME_STEP * step[:, 1:2],
            log_sigma[:, 1:2],
            uvw,
            place_log_sigma,
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
