"""Which sensors the network does not see in a training step, and which of them it must fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from xec.detector.channels import FACE_IDS, INNER_GRID, N_MPPC
from xec_training.clusters import cluster_order
from xec_training.data.batch import TrainingBatch

MaskKind = Literal["random", "cluster", "mixed"]

MASK_KINDS: Final[tuple[MaskKind, ...]] = ("random", "cluster", "mixed")
BRIGHT: Final = 25  # sensors in the brightest light


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


def hide(batch: TrainingBatch, extra: float, bright: float, generator: torch.Generator) -> Masked:
    """Take out the dead sensors, and in half of the events some of the others.

    Sensors in the brightest light are few, and decide what a dead one among them is filled with.
    More of them can be taken out, chosen by what their neighbours read: by their own readings,
    the network would learn that masked sensors are brighter than they look.

    Args:
        batch: readings of all sensors, dead ones included where they are known.
        extra: largest additional fraction, drawn per event.
        bright: the same of the `BRIGHT` inner sensors whose neighbours read most.
        generator: random numbers, on the batch's device.
    """
    out = batch.dead | _drawn(batch.dead, extra, generator)
    if bright > 0:
        chosen = _drawn(batch.dead, bright, generator)
        out |= chosen & _in_bright_light(batch, ~out)
    return _without(batch, out, out & batch.npho_valid)


def _drawn(like: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Random sensors (B, N), in half of the events none, else up to the share `largest`."""
    B, N = like.shape
    rate = torch.rand(B, 1, generator=generator, device=like.device) * (2.0 * largest) - largest
    return torch.rand(B, N, generator=generator, device=like.device) < rate


def _in_bright_light(batch: TrainingBatch, visible: Tensor) -> Tensor:
    """The `BRIGHT` inner sensors (B, 4760) with the largest mean of their visible neighbours."""
    seen = (visible & batch.npho_valid)[:, :N_MPPC].float()
    npho = (batch.npho[:, :N_MPPC] * seen).view(-1, 1, *INNER_GRID.shape)
    ring = torch.ones(1, 1, 3, 3, device=npho.device)
    ring[0, 0, 1, 1] = 0.0
    light = functional.conv2d(npho, ring, padding=1)
    count = functional.conv2d(seen.view_as(npho), ring, padding=1)
    mean = (light / count.clamp(min=1.0)).flatten(1)
    chosen = torch.zeros_like(visible)
    return chosen.scatter_(1, mean.topk(BRIGHT, dim=1).indices, value=True)


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
