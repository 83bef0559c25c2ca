"""Which sensors the network does not see in a training step, and which of them it must fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from xec.detector.channels import FACE_IDS
from xec_training.clusters import cluster_order
from xec_training.data.batch import TrainingBatch

MaskKind = Literal["random", "cluster", "mixed"]

MASK_KINDS: Final[tuple[MaskKind, ...]] = ("random", "cluster", "mixed")


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Inputs of the network with sensors taken out, and where the losses apply.

    `hidden` marks sensors that were taken out although their reading is known; only these train
    the filling. `live` marks sensors that the network sees.
    """

    npho: Tensor  # (B, 4760)
    time: Tensor
    npho_valid: Tensor  # bool
    time_valid: Tensor  # bool
    hidden: Tensor  # bool
    live: Tensor  # bool

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The contract's four inputs."""
        return self.npho, self.time, self.npho_valid, self.time_valid


def hide(batch: TrainingBatch, extra: float, generator: torch.Generator) -> Masked:
    """Take out the dead sensors, and in half of the events up to `extra` of the others.

    Args:
        batch: readings of all sensors, dead ones included where they are known.
        extra: largest additional fraction, drawn per event.
        generator: random numbers, on the batch's device.
    """
    B, N = batch.npho.shape
    device = batch.npho.device
    rate = torch.rand(B, 1, generator=generator, device=device) * (2.0 * extra) - extra
    more = torch.rand(B, N, generator=generator, device=device) < rate
    out = batch.dead | more
    return _without(batch, out, out & batch.npho_valid)


def mask_for_pretraining(
    batch: TrainingBatch, ratio: float, kind: MaskKind, generator: torch.Generator
) -> Masked:
    """Take out the dead sensors and a fixed share of the others, which are to be filled.

    In each event and on each face, floor(ratio x n) of its n live sensors with a known reading
    are masked. Dead sensors and invalid readings are neither counted nor to be filled (METHODS,
    M6; invalid-aware masking after He et al., arXiv:2111.06377).

    Args:
        batch: readings of all sensors.
        ratio: from 0 to 1; 0.6 in ConvNeXt V2 (arXiv:2301.00808).
        kind: single sensors, clusters (`xec_training.clusters`), or either in each event.
        generator: random numbers, on the batch's device.
    """
    device = batch.npho.device
    candidates = batch.npho_valid & ~batch.dead
    order = torch.rand(candidates.shape, generator=generator, device=device)
    if kind != "random":
        clusters = cluster_order(len(batch), generator)
        if kind == "mixed":
            coin = torch.rand(len(batch), 1, generator=generator, device=device) < 0.5
            clusters = torch.where(coin, clusters, order)
        order = clusters
    masked = _first_of_each_face(order, candidates, ratio)
    return _without(batch, batch.dead | masked, masked)


def _first_of_each_face(order: Tensor, candidates: Tensor, ratio: float) -> Tensor:
    """The floor(ratio x n) of the n candidates of each face and event that come first.

    Args:
        order: (B, 4760) finite keys.
        candidates: (B, 4760) bool.
        ratio: from 0 to 1.
    """
    keys = order.masked_fill(~candidates, torch.inf)
    masked = torch.zeros_like(candidates)
    for ids in FACE_IDS.values():
        face = torch.from_numpy(ids.copy()).to(order.device)
        # In double precision, as a reader of "floor(0.6 x n)" would compute it.
        wanted = (candidates[:, face].sum(dim=1, keepdim=True).double() * ratio).floor()
        ranked = face[keys[:, face].argsort(dim=1)]
        places = torch.arange(len(face), device=order.device)
        masked.scatter_(1, ranked, places < wanted)
    return masked


def _without(batch: TrainingBatch, out: Tensor, hidden: Tensor) -> Masked:
    """What is left of a batch when the sensors `out` are taken out."""
    live = batch.npho_valid & ~out
    time_valid = batch.time_valid & live
    return Masked(
        npho=batch.npho.masked_fill(~live, 0.0),
        time=batch.time.masked_fill(~time_valid, 0.0),
        npho_valid=live,
        time_valid=time_valid,
        hidden=hidden,
        live=live,
    )
