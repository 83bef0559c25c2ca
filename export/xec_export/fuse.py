"""The fused view: the same function as the trained network, in the form that runs fastest.

Training keeps the plain modules. For export each is exchanged for one that computes the same
values with fewer passes over memory (docs/log.md, "the fused view"):

- ConvNeXt V2 block: affine of the layer norm in the expanding weights, GRN beta in the projecting
  bias, GRN norm as a product of ones with h * h, GRN scale in the projecting weights, which are
  applied from the left, so that the result lies as the residual does;
- graph attention: sums within heads as products, the constant share of the edges computed once;
- sensor heads: affine of the layer norms in the hidden weights, so that the mean's and the
  spread's path have their input in common;
- neighbours' mean on the inner face: its 9x9 convolution of one channel as one matrix product;
- moments of light, time of flight and curves of sigmas: the sensors on the last axis;
- sensors that lie one after the other are cut out, not gathered.

All of it is exact: `tests/test_export_fuse.py` compares in float64 and float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from xec.detector.channels import N_MPPC
from xec.models.calibration import SENSOR_AXES, PiecewiseLinear, SigmaScale
from xec.models.convnext import ConvNeXtBlock
from xec.models.face_group import ChannelOrder, FaceGroup
from xec.models.frontend import NeighbourMean
from xec.models.heads import SensorHead
from xec.models.hexgat import GraphAttention
from xec.models.moments import FlightTime, LightMoments
from xec.models.reconstructor import Reconstructor
from xec_export.fused_layers import FusedBlock, FusedGraphAttention, FusedSensorHead
from xec_export.fused_sensors import (
    FusedChannelOrder,
    FusedCurve,
    FusedFaceGroup,
    FusedFlightTime,
    FusedLightMoments,
    FusedNeighbourMean,
    consecutive,
)

_FUSED: Final[Mapping[type[nn.Module], Callable[[Any], nn.Module]]] = {
    ConvNeXtBlock: FusedBlock,
    GraphAttention: FusedGraphAttention,
    SensorHead: FusedSensorHead,
    NeighbourMean: FusedNeighbourMean,
    LightMoments: FusedLightMoments,
    FlightTime: FusedFlightTime,
    FaceGroup: FusedFaceGroup,
    ChannelOrder: FusedChannelOrder,
}


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
    """The fused form of a module, or the module itself."""
    if isinstance(module, FaceGroup) and not consecutive(module.grids):
        return module
    if isinstance(module, ChannelOrder) and not consecutive(module.place[:N_MPPC]):
        return module
    if isinstance(module, SigmaScale):
        return _with_fused_curves(module)
    make = _FUSED.get(type(module))
    return module if make is None else make(module)


def _with_fused_curves(scale: SigmaScale) -> SigmaScale:
    """The curves of single sensors exchanged, those of the event left as they are."""
    for axis in SENSOR_AXES:
        if axis in scale.curves:
            curve = scale.curves[axis]
            if isinstance(curve, PiecewiseLinear) and len(curve.knots):
                scale.curves[axis] = FusedCurve(curve)
    return scale
