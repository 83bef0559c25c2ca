"""From raw readings to features: validity, normalisation and a first guess from the neighbours.

Everything that depends on units happens here, inside the graph (DESIGN, "raw in, physics out").
An invalid reading is replaced before anything else, so its stored value changes nothing, bit for
bit (METHODS M5). Times are taken relative to the event's light-weighted mean: the network does
not depend on the zero of time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xec.detector.channels import FACE_IDS, INNER_GRID, N_MPPC, Face
from xec.detector.geometry import Geometry

FEATURES: Final = 7
PHOTON_SCALE: Final = 10.0  # photons; about one MPPC photoelectron
ROOT_OFFSET: Final = 1.0  # keeps the root real for counts down to -PHOTON_SCALE
ROOT_UNIT: Final = 8.0
LOG_UNIT: Final = 4.0
TIME_UNIT: Final = 3.0  # ns, of the order of the light's flight across the detector
TIME_LIMIT: Final = 10.0  # in units of TIME_UNIT; beyond it a time carries no more information
PMT_UNIT: Final = 7.0  # cm, typical distance of neighbouring PMTs
PMT_FACES: Final = tuple(face for face in Face if face is not Face.INNER)
INNER_REACH: Final = 4  # sensors, half-width of the neighbourhood on the inner face


class Readings(NamedTuple):
    """What the front-end hands to the network; N = 4760."""

    features: Tensor  # (B, F, N)
    npho: Tensor  # (B, N) photons, 0 where invalid
    npho_valid: Tensor  # (B, N) 0 or 1
    time: Tensor  # (B, N) ns relative to `zero`, 0 where invalid
    time_valid: Tensor  # (B, N)
    zero: Tensor  # (B, 1) ns
    root_guess: Tensor  # (B, N) neighbours' weighted mean of the root count
    time_guess: Tensor  # (B, N) ns relative to `zero`


def root_of_npho(npho: Tensor) -> Tensor:
    """Variance-stabilising root 2 sqrt(n/s + c) of a count (after Anscombe 1948)."""
    return 2.0 * torch.sqrt((npho / PHOTON_SCALE + ROOT_OFFSET).clamp(min=1e-6))


def npho_of_root(root: Tensor) -> Tensor:
    """Inverse of `root_of_npho`; photons."""
    return PHOTON_SCALE * (root.square() / 4.0 - ROOT_OFFSET)


def npho_per_root(root: Tensor) -> Tensor:
    """Slope d npho / d root at `root`, in photons: turns a spread of the root into one of n."""
    return PHOTON_SCALE * root / 2.0


class NeighbourMean(nn.Module):
    """Weighted mean over the valid other sensors of the face (Shepard 1968, 1/distance^4).

    On the inner face a fixed convolution within `INNER_REACH` sensors; on each PMT face, where
    spacings differ, a small dense matrix. No valid neighbour gives 0.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.register_buffer("kernel", _inner_kernel(geometry), persistent=False)
        self.kernel: Tensor
        for face in PMT_FACES:
            ids = torch.from_numpy(FACE_IDS[face].copy())
            self.register_buffer(f"ids_{face}", ids, persistent=False)
            self.register_buffer(f"weight_{face}", _pmt_matrix(geometry, face), persistent=False)
        order = torch.from_numpy(np.concatenate([FACE_IDS[face] for face in PMT_FACES]))
        self.register_buffer("order", torch.argsort(order), persistent=False)
        self.order: Tensor

    def _sum(self, x: Tensor) -> Tensor:
        """Neighbour-weighted sum of (B, N) at every sensor."""
        B = x.shape[0]
        inner = x[:, :N_MPPC].reshape(B, 1, *INNER_GRID.shape)
        inner = functional.conv2d(inner, self.kernel, padding=INNER_REACH).reshape(B, N_MPPC)
        buffers = dict(self.named_buffers())
        pmt = [
            x.index_select(1, buffers[f"ids_{face}"]) @ buffers[f"weight_{face}"]
            for face in PMT_FACES
        ]
        return torch.cat([inner, torch.cat(pmt, dim=1).index_select(1, self.order)], dim=1)

    def forward(self, value: Tensor, weight: Tensor) -> Tensor:
        """Mean of `value` (B, N) over the neighbours with non-negative `weight` (B, N)."""
        return self._sum(value * weight) / (self._sum(weight) + 1e-6)


def _inner_kernel(geometry: Geometry) -> Tensor:
    reach = np.arange(-INNER_REACH, INNER_REACH + 1)
    position = geometry.position.reshape(-1, 3)
    along_v = np.linalg.norm(position[44] - position[0])
    along_u = np.linalg.norm(position[1] - position[0])
    distance2 = (reach[:, None] * along_v) ** 2 + (reach[None, :] * along_u) ** 2
    distance2[INNER_REACH, INNER_REACH] = np.inf
    weight = (along_u**4) / distance2**2
    return torch.tensor(weight, dtype=torch.float32)[None, None]


def _pmt_matrix(geometry: Geometry, face: Face) -> Tensor:
    position = geometry.position[FACE_IDS[face]]
    distance2 = np.square(position[:, None] - position[None, :]).sum(-1)
    np.fill_diagonal(distance2, np.inf)
    return torch.tensor(PMT_UNIT**4 / distance2**2, dtype=torch.float32)


class FrontEnd(nn.Module):
    """Raw tensors of the contract to `Readings`."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.neighbours = NeighbourMean(geometry)

    def forward(
        self, npho: Tensor, time: Tensor, npho_valid: Tensor, time_valid: Tensor
    ) -> Readings:
        """Inputs (B, 4760) as in `xec.contract`; masks may be uint8 or bool."""
        counted = npho_valid > 0
        timed = (time_valid > 0) & counted
        v, vt = counted.to(npho.dtype), timed.to(npho.dtype)
        n = torch.where(counted, npho, torch.zeros_like(npho))
        t = torch.where(timed, time, torch.zeros_like(time))
        light = n.clamp(min=0.0) * vt
        zero = (light * t).sum(1, keepdim=True) / (light.sum(1, keepdim=True) + 1e-6)
        t = ((t - zero) * vt).clamp(-TIME_LIMIT * TIME_UNIT, TIME_LIMIT * TIME_UNIT)
        root = root_of_npho(n)
        root_guess = self.neighbours(root, v)
        time_guess = self.neighbours(t, light)
        features = torch.stack(
            [
                (root - 2.0) / ROOT_UNIT * v,
                torch.log1p(n.clamp(min=0.0) / PHOTON_SCALE) / LOG_UNIT * v,
                t / TIME_UNIT,
                v,
                vt,
                (root_guess - 2.0) / ROOT_UNIT,
                time_guess / TIME_UNIT,
            ],
            dim=1,
        )
        return Readings(features, n, v, t, vt, zero, root_guess, time_guess)
