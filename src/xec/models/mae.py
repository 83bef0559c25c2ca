"""The masked autoencoder: learn the detector by predicting sensors that were taken away.

After FCMAE (Woo et al., arXiv:2301.00808, section 3.1) and MAE (He et al., arXiv:2111.06377): the
encoder sees the visible sensors only, by exactly sparse convolution; a light decoder (a learned
mask token and one block per face) predicts the others. Only the encoder is handed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from xec.detector.channels import N_CHANNELS
from xec.models.encoder import Encoder
from xec.models.face_group import ChannelOrder
from xec.models.faces import Cells
from xec.models.frontend import ROOT_UNIT, TIME_UNIT
from xec.models.heads import SensorHead
from xec.models.precision import at_least_float32, full_precision

MEANS: Final = 2  # per sensor: root count and time
DARK_ROOT: Final = 2.0  # root count of a sensor without light


class SensorPrediction(NamedTuple):
    """What the decoder says of every sensor, in the form that the losses want, (B, 4760) each."""

    root: Tensor
    root_log_sigma: Tensor
    time: Tensor  # ns, zero as in the input
    time_log_sigma: Tensor


class MaskedDecoder(nn.Module):
    """Features of a group's cells to its sensors: mask token, one block, one head.

    Args:
        block: a dense block on the group's cells, (B, C, h, w) or (B, N, C) to the same.
        channels: features per cell.
        sensors: sensors per cell.
        is_grid: whether cells lie on a grid; the nodes of a graph otherwise.
    """

    def __init__(self, block: nn.Module, channels: int, sensors: int, is_grid: bool) -> None:
        super().__init__()
        self.block = block
        self.is_grid = is_grid
        self.mask_token = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.head = SensorHead(channels, sensors, hints=0, means=MEANS, spreads=MEANS)

    def forward(self, features: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """Features (B, h, w, C) or (B, N, C) to means and log sigmas of the cells' sensors."""
        assert cells.fine_visible is not None
        if self.is_grid:
            hidden = 1.0 - cells.fine_visible.permute(0, 2, 3, 1)
            x = features + hidden * self.mask_token
            x = self.block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            hidden = 1.0 - cells.fine_visible.unsqueeze(-1)
            x = self.block(features + hidden * self.mask_token)
        with full_precision(x):
            x = at_least_float32(x)
            nothing = x[..., :0]
            return self.head(x, nothing, x.detach(), nothing)  # type: ignore[no-any-return]


class MaskedAutoencoder(nn.Module):
    """Encoder on the visible sensors, decoder for all.

    Args:
        encoder: what pretraining is for.
        decoders: one per group of faces.
    """

    def __init__(self, encoder: Encoder, decoders: Sequence[MaskedDecoder]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoders = nn.ModuleList(decoders)
        self.channel_order = ChannelOrder(encoder.face_groups, N_CHANNELS)

    def forward(
        self, npho: Tensor, time: Tensor, npho_valid: Tensor, time_valid: Tensor
    ) -> SensorPrediction:
        """The contract's inputs, masked sensors invalid like dead ones, to every sensor."""
        visible = (npho_valid > 0).to(npho.dtype)
        encoded = self.encoder(npho, time, npho_valid, time_valid, visible)
        means, log_sigmas = [], []
        for index, group in enumerate(self.encoder.face_groups):
            mean, log_sigma = self.decoders[index](encoded.features[index], encoded.cells[index])
            means.append(group.to_sensors(mean))
            log_sigmas.append(group.to_sensors(log_sigma))
        mean, log_sigma = self.channel_order(means), self.channel_order(log_sigmas)
        return SensorPrediction(
            root=DARK_ROOT + ROOT_UNIT * mean[:, 0],
            root_log_sigma=log_sigma[:, 0],
            time=TIME_UNIT * mean[:, 1] + encoded.readings.zero,
            time_log_sigma=log_sigma[:, 1],
        )
