"""Sums over sensors and their order in the fused view (`xec_export.fuse`).

Vector units work along the last axis. Where that was one channel, two coordinates or a few ramps,
it is the sensors here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.detector.channels import INNER_GRID, N_MPPC
from xec.models.calibration import PiecewiseLinear
from xec.models.face_group import ChannelOrder, FaceGroup
from xec.models.frontend import INNER_REACH, PMT_FACES, NeighbourMean
from xec.models.moments import FlightTime, LightMoments
from xec.units import SPEED_OF_LIGHT_CM_PER_NS


class FusedNeighbourMean(NeighbourMean):
    """The neighbours' sums on the inner face as one product with a banded matrix.

    A convolution with one channel in and out uses one lane in sixteen of the blocked kernels.
    Nine neighbouring rows side by side, (B, 93, 9 * 44), times (9 * 44, 44) use all.
    """

    def __init__(self, plain: NeighbourMean) -> None:
        nn.Module.__init__(self)
        for name, value in plain.named_buffers():
            self.register_buffer(name, value.clone(), persistent=False)
        self.register_buffer("band", _band(plain.kernel[0, 0]), persistent=False)
        self.band: Tensor

    def _sum(self, x: Tensor) -> Tensor:
        rows, columns = INNER_GRID.shape
        inner = functional.pad(
            x[:, :N_MPPC].reshape(-1, rows, columns), (0, 0, *2 * (INNER_REACH,))
        )
        near = [inner[:, shift : shift + rows] for shift in range(2 * INNER_REACH + 1)]
        inner = torch.matmul(torch.cat(near, dim=2), self.band).reshape(-1, N_MPPC)
        buffers = dict(self.named_buffers())
        pmt = [
            x.index_select(1, buffers[f"ids_{face}"]) @ buffers[f"weight_{face}"]
            for face in PMT_FACES
        ]
        return torch.cat([inner, torch.cat(pmt, dim=1).index_select(1, self.order)], dim=1)


def _band(kernel: Tensor) -> Tensor:
    """Kernel (9, 9) to (9 * 44, 44): weight of each sensor of nine rows for one row's sums."""
    columns = INNER_GRID.shape[1]
    band = kernel.new_zeros(kernel.shape[0], columns, columns)
    for shift in range(-INNER_REACH, INNER_REACH + 1):
        here = torch.arange(max(0, -shift), columns - max(0, shift))
        band[:, here + shift, here] = kernel[:, INNER_REACH + shift, None]
    return band.flatten(0, 1)


class FusedLightMoments(LightMoments):
    """The centre and width of the light with the sensors on the last axis."""

    def __init__(self, plain: LightMoments) -> None:
        nn.Module.__init__(self)
        self.register_buffer("member", plain.member.clone(), persistent=False)
        self.register_buffer("uv", plain.uv.clone(), persistent=False)
        self.register_buffer("uv_planes", plain.uv.t().contiguous(), persistent=False)  # (2, N)
        self.uv_planes: Tensor

    def _centre(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rough = weight @ self.uv  # (B, 2)
        offset = self.uv_planes - rough.unsqueeze(-1)  # (B, 2, N)
        first = weight.unsqueeze(1) * offset
        centre = rough + first.sum(-1)
        spread = (first * offset).sum(-1).clamp(min=1e-4).sqrt()
        return centre, spread


class FusedFlightTime(FlightTime):
    """The light's time of flight with one plane for each coordinate."""

    def __init__(self, plain: FlightTime) -> None:
        nn.Module.__init__(self)
        self.register_buffer("planes", plain.position.t().contiguous(), persistent=False)  # (3, N)
        self.planes: Tensor
        self.index = plain.index

    def forward(self, time: Tensor, light: Tensor, xyz: Tensor) -> Tensor:
        """Times (B, N) in ns with weights `light` (B, N) and points (B, 3) to (B, 1) ns."""
        x, y, z = (self.planes - xyz.unsqueeze(-1)).unbind(1)  # (B, N) each
        distance = (x * x + y * y + z * z).clamp(min=1e-4).sqrt()
        flight = distance * (self.index / SPEED_OF_LIGHT_CM_PER_NS)
        return ((time - flight) * light).sum(1, keepdim=True) / (light.sum(1, keepdim=True) + 1e-6)


class FusedCurve(nn.Module):
    """A `PiecewiseLinear` of (B, N) with the sensors on the last axis."""

    def __init__(self, plain: PiecewiseLinear) -> None:
        super().__init__()
        for name in ("knots", "width"):
            value = plain.get_buffer(name)[:, None].clone()
            self.register_buffer(name, value, persistent=False)  # (K, 1)
        self.register_buffer("first", plain.first[:, None].clone(), persistent=False)  # (C, 1)
        self.register_buffer("slope", plain.slope.t().contiguous(), persistent=False)  # (C, K)
        self.knots: Tensor
        self.width: Tensor
        self.first: Tensor
        self.slope: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The factors (B, N, C) at x (B, N)."""
        ramps = torch.minimum((x.unsqueeze(1) - self.knots).clamp(min=0.0), self.width)
        return (self.first + self.slope @ ramps).transpose(1, 2)


class FusedFaceGroup(FaceGroup):
    """Faces whose sensors have consecutive ids: a slice in place of a gather."""

    def gather(self, x: Tensor) -> Tensor:
        """Per-sensor values (B, F, 4760) to the faces' grids, (G * B, F, ...)."""
        B, F, _ = x.shape
        count = self.grids.numel()
        x = x[:, :, self.start : self.start + count].reshape(B, F, *self.grids.shape)
        return x.movedim(2, 0).flatten(0, 1)

    def __init__(self, plain: FaceGroup) -> None:
        super().__init__(plain.network, plain.faces, plain.grids, plain.channels)
        self.start = int(self.grids.reshape(-1)[0])


class FusedChannelOrder(ChannelOrder):
    """Only the PMTs are put in order: the inner face comes first and is in order already."""

    def __init__(self, plain: ChannelOrder) -> None:
        nn.Module.__init__(self)
        self.register_buffer("place", plain.place[N_MPPC:] - N_MPPC, persistent=False)
        self.place: Tensor

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Tensors (B, V, G * N) of all groups to (B, V, 4760)."""
        pmts = torch.cat(parts[1:], dim=-1).index_select(2, self.place)
        return torch.cat([parts[0], pmts], dim=-1)


def consecutive(ids: Tensor) -> bool:
    """Whether channel ids follow each other without a gap."""
    flat = ids.reshape(-1)
    return bool((flat[1:] - flat[:-1] == 1).all())
