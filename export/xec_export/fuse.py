"""The fused view: the same function as the trained network, in the form that runs fastest.

Training keeps the plain modules. For export each is exchanged for one that computes the same
values with fewer passes over memory (docs/log.md, "the fused view"):

- ConvNeXt V2 block: affine of the layer norm in the expanding weights, GRN beta in the projecting
  bias, GRN norm as a product of ones with h * h, GRN scale in the projecting weights, which are
  applied from the left, so that the result lies as the residual does;
- neighbours' mean on the inner face: its 9x9 convolution of one channel as one matrix product;
- moments of light and curves of sigmas: the sensors on the last axis instead of the two
  coordinates or the few ramps, which vector units can then work on;
- faces whose sensors lie one after the other are cut out, not gathered.

All of it is exact: `tests/test_export_fuse.py` compares in float64 and float32.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.detector.channels import INNER_GRID, N_MPPC
from xec.models.calibration import SENSOR_AXES, PiecewiseLinear, SigmaScale
from xec.models.convnext import ConvNeXtBlock
from xec.models.face_group import ChannelOrder, FaceGroup
from xec.models.frontend import INNER_REACH, PMT_FACES, NeighbourMean
from xec.models.heads import SensorHead, bounded
from xec.models.hexgat import NEGATIVE_SLOPE, GraphAttention
from xec.models.moments import FlightTime, LightMoments
from xec.models.precision import at_least_float32
from xec.models.reconstructor import Reconstructor
from xec.units import SPEED_OF_LIGHT_CM_PER_NS


class FusedBlock(nn.Module):
    """A `ConvNeXtBlock` without visibility; its weights are folded once, here."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        super().__init__()
        norm, expand, grn, project = block.norm, block.expand, block.grn, block.project
        self.depthwise, self.gate, self.eps = block.depthwise, block.gate, norm.eps
        with torch.no_grad():
            expand_bias = functional.linear(norm.bias, expand.weight, expand.bias)
            project_bias = functional.linear(grn.beta, project.weight, project.bias)
            self.register_buffer("expand_weight", (expand.weight * norm.weight).t().contiguous())
            self.register_buffer("expand_bias", expand_bias)
            self.register_buffer("gamma", grn.gamma.clone())
            self.register_buffer("project_weight", project.weight.clone())  # (C, 4C)
            self.register_buffer("project_bias", project_bias[:, None, None].clone())
        self.expand_weight: Tensor
        self.expand_bias: Tensor
        self.gamma: Tensor
        self.project_weight: Tensor
        self.project_bias: Tensor

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; everything is visible."""
        if visible is not None:
            raise ValueError("the fused view has no visibility: pretraining runs the plain block")
        B, C, H, W = x.shape
        y = self.depthwise(x).permute(0, 2, 3, 1).reshape(-1, C)
        y = functional.layer_norm(y, (C,), eps=self.eps)
        h = functional.gelu(torch.addmm(self.expand_bias, y, self.expand_weight))
        h = h.reshape(B, H * W, -1)
        weight = self.project_weight * self._scale(h).unsqueeze(1)  # (B, C, 4C)
        z = torch.matmul(weight.to(h.dtype), h.transpose(1, 2)).reshape(B, C, H, W)
        z = z + self.project_bias
        if self.gate is not None:
            z = self.gate(z.permute(0, 2, 3, 1), None).permute(0, 3, 1, 2)
        return x + z

    def _scale(self, h: Tensor) -> Tensor:
        """Cells (B, N, 4C) to the factor of each channel (B, 4C), as `GlobalResponseNorm` has."""
        wide = at_least_float32(h)
        ones = wide.new_ones(1, h.shape[1])
        norm = torch.matmul(ones, wide * wide).squeeze(1).sqrt()
        return 1.0 + self.gamma * norm / (norm.mean(-1, keepdim=True) + 1e-6)


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
        inner = functional.pad(x[:, :N_MPPC].reshape(-1, rows, columns), (0, 0, *2 * (INNER_REACH,)))
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


class FusedGraphAttention(GraphAttention):
    """Sums within heads as products with matrices of ones and zeros."""

    def __init__(self, plain: GraphAttention) -> None:
        nn.Module.__init__(self)
        self.heads, channels = plain.heads, plain.bias.shape[0]
        self.source, self.target, self.bias = plain.source, plain.target, plain.bias
        member = torch.eye(self.heads).repeat_interleave(channels // self.heads, dim=0)  # (C, heads)
        with torch.no_grad():
            member = member.to(plain.attention)
            self.register_buffer("edges", plain.edge(plain.feature), persistent=False)  # (N, K, C)
            score = member * plain.attention.reshape(-1, 1)
            self.register_buffer("score", score.clone(), persistent=False)
            self.register_buffer("spread", member.t().contiguous(), persistent=False)
        self.register_buffer("neighbour", plain.neighbour.clone(), persistent=False)
        self.register_buffer("used", plain.used.clone(), persistent=False)
        self.edges: Tensor
        self.score: Tensor
        self.spread: Tensor

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, N, C) to (B, N, C); everything is visible."""
        B, N, C = x.shape
        K = self.neighbour.shape[1]
        message = self.source(x).index_select(1, self.neighbour.reshape(-1)).reshape(B, N, K, C)
        query = self.target(x).unsqueeze(2) + message + self.edges
        score = functional.leaky_relu(query, NEGATIVE_SLOPE) @ self.score  # (B, N, K, heads)
        weight = self._normalise(score, visible).to(message.dtype) @ self.spread  # (B, N, K, C)
        mixed: Tensor = (weight * message).sum(2)
        return mixed + self.bias


class FusedSensorHead(nn.Module):
    """A `SensorHead` with its layer norms' affine in the hidden weights.

    Where both paths see the same features, normalising and joining them is then the same twice,
    which ONNX Runtime does once.
    """

    def __init__(self, plain: SensorHead) -> None:
        super().__init__()
        self.mean, self.spread = plain.mean, plain.spread
        self.channels, self.eps = plain.norm.normalized_shape, plain.norm.eps
        self.mean_hidden = _after_norm(plain.norm, plain.mean_hidden)
        self.spread_hidden = _after_norm(plain.spread_norm, plain.spread_hidden)

    def forward(
        self, x: Tensor, hints: Tensor, spread_x: Tensor, spread_hints: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `SensorHead.forward`."""
        mean = self.mean(functional.gelu(self.mean_hidden(self._seen(x, hints))))
        seen = self._seen(spread_x, spread_hints)
        spread = self.spread(functional.gelu(self.spread_hidden(seen)))
        return at_least_float32(mean), bounded(spread)

    def _seen(self, x: Tensor, hints: Tensor) -> Tensor:
        normal = functional.layer_norm(x, self.channels, eps=self.eps)
        return torch.cat([normal, hints], dim=-1)


def _after_norm(norm: nn.LayerNorm, linear: nn.Linear) -> nn.Linear:
    """`linear` of inputs whose first columns come from `norm` without its affine."""
    folded = copy.deepcopy(linear)
    columns = norm.normalized_shape[0]
    with torch.no_grad():
        folded.bias += linear.weight[:, :columns] @ norm.bias
        folded.weight[:, :columns] *= norm.weight
    return folded


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


def fused(model: Reconstructor) -> Reconstructor:
    """A copy of a trained network in its fused form; equal up to rounding, for inference only."""
    copied = copy.deepcopy(model).eval()
    _exchange(copied)
    return copied


def _exchange(module: nn.Module) -> None:
    """Put the fused modules in the places of the plain ones, at every depth."""
    for name, child in module.named_children():
        new = _fused_module(child)
        _exchange(new)
        if new is not child:
            module.register_module(name, new)


def _fused_module(module: nn.Module) -> nn.Module:
    if isinstance(module, ConvNeXtBlock):
        return FusedBlock(module)
    if type(module) is NeighbourMean:
        return FusedNeighbourMean(module)
    if type(module) is LightMoments:
        return FusedLightMoments(module)
    if type(module) is SensorHead:
        return FusedSensorHead(module)
    if type(module) is FlightTime:
        return FusedFlightTime(module)
    if type(module) is GraphAttention:
        return FusedGraphAttention(module)
    if type(module) is ChannelOrder and _consecutive(module.place[:N_MPPC]):
        return FusedChannelOrder(module)
    if type(module) is SigmaScale:
        return _with_fused_curves(module)
    if type(module) is FaceGroup and _consecutive(module.grids):
        return FusedFaceGroup(module)
    return module


def _with_fused_curves(scale: SigmaScale) -> SigmaScale:
    """The curves of single sensors exchanged, those of the event left as they are."""
    for axis in SENSOR_AXES:
        if axis in scale.curves:
            curve = scale.curves[axis]
            if isinstance(curve, PiecewiseLinear) and len(curve.knots):
                scale.curves[axis] = FusedCurve(curve)
    return scale


def _consecutive(ids: Tensor) -> bool:
    flat = ids.reshape(-1)
    return bool((flat[1:] - flat[:-1] == 1).all())
